#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/data/conversations.h"
#include "adept/data/record_text.h"
#include "adept/data/source_files.h"
#include "adept/data/text_source.h"
#include "adept/io/file_stamp.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

struct InputFile {
  fs::path path;
  io::FileStamp stamp;
};

}  // namespace

struct ReaderPlace::File {
  std::size_t index = 0;
  // When it was opened.
  SourceCounts counts;
  std::vector<SkippedRecord> skipped;
  std::string contents;
};

Json ReaderPlace::to_json() const {
  const File none;
  const File& file = file_ ? *file_ : none;
  return {{"file", file.index},
          {"documents", documents_},
          {"counts", data::to_json(file.counts)},
          {"skipped", data::to_json(file.skipped)},
          {"contents", file.contents}};
}

struct DocumentReader::State {
  State(const TextSource& text_source, const ChatTemplate* chat) : source(text_source), converter(source) {
    ADEPT_CHECK(!source.messages_field || chat != nullptr, "messages without a chat template");
    if (source.messages_field) conversations.emplace(*chat, source.train_on);
    SourceFiles found = find_files(source);
    counts.ignored = std::move(found.ignored);
    for (fs::path& path : found.files) {
      total_bytes += file_bytes(path);
      const io::FileStamp stamp = io::stamp_of(path);
      files.push_back({std::move(path), stamp});
    }
  }

  bool next(Document& document) {
    if (!find_next(document)) return false;
    ++place.documents_;
    return true;
  }

  bool find_next(Document& document) {
    clear_or_release(document.text);
    document.answers.clear();
    for (;;) {
      if (!rendered.empty()) {
        if (take_rendered(document)) return true;
        continue;
      }
      if (!reader) {
        if (next_file == files.size()) return false;
        place.file_ =
            std::make_shared<const ReaderPlace::File>(ReaderPlace::File{next_file, counts, skipped, contents});
        place.documents_ = 0;
        open(files[next_file++].path);
      }
      const ReadResult found = read_record();
      has_records = has_records || found != ReadResult::kEnd;
      switch (found) {
        case ReadResult::kRecord:
          if (conversations && has_fields)
            add_conversation();
          else if (accept(document.text))
            return true;
          break;
        case ReadResult::kBad:
          if (conversations)
            conversations->add_bad(fault, reader->position());
          else
            bad(reader->position());
          break;
        case ReadResult::kBlank:
          ++counts.skipped["blank line"];
          break;
        case ReadResult::kEnd:
          if (conversations) conversations->render(rendered);
          close();
          break;
      }
    }
  }

  // A file that another process shortens has bad records, or seems damaged; what is wrong is that it changes.
  ReadResult read_record() {
    try {
      return reader->next(record, fault);
    } catch (const DataError&) {
      require_unchanged();
      throw;
    }
  }

  void require_unchanged() const { io::require_unchanged(files[next_file - 1].path, files[next_file - 1].stamp); }

  void add_conversation() {
    std::string messages;
    if (converter.convert(record, messages, fault))
      conversations->add(messages, reader->position());
    else
      conversations->add_bad(fault, reader->position());
    if (conversations->is_full()) conversations->render(rendered);
  }

  bool take_rendered(Document& document) {
    ConversationText next = std::move(rendered.front());
    rendered.pop_front();
    last_position = std::move(next.position);
    document.text = std::move(next.text);
    document.answers = std::move(next.answers);
    fault = std::move(next.fault);
    return fault.reason.empty() ? finish(document.text, last_position) : bad(last_position);
  }

  void open(const fs::path& file) {
    const Format& format = format_in(source, file);
    has_fields = format.has_fields;
    reader = format.open(
        {.path = file, .wanted = converter.wanted(), .txt_record = source.txt_record.value_or(TxtRecord::kFile)});
    has_records = false;
    ++counts.files;
  }

  // Whether what was read is what the file held at the start: else documents may be lost, or from two versions.
  void close() {
    if (!conversations) last_position = reader->position();
    reader.reset();
    const InputFile& file = files[next_file - 1];
    finished_bytes += file_bytes(file.path);
    if (hashes_contents) contents = extend_content_hash(contents, file.path);
    require_unchanged();
    if (!has_records) ignore_without_records(file.path);
  }

  void ignore_without_records(const fs::path& file) {
    constexpr char kReason[] = "file without records";
    if (++counts.ignored[kReason] == 1)
      log_warning("{}: has no record, so nothing is read from it; further such files are only counted", file.string());
  }

  void go_to(const Json& json) {
    const auto fail = [&](const std::string& problem) {
      throw DataError(
          "source \"{}\": {}, so reading cannot go on where it was interrupted: the files are not the same any more. "
          "Start again in another folder.",
          source.name, problem);
    };
    std::int64_t documents = 0;
    try {
      next_file = json.at("file").get<std::size_t>();
      documents = json.at("documents").get<std::int64_t>();
      counts = source_counts_from_json(json.at("counts"), "the place in the source");
      skipped = skipped_records_from_json(json.at("skipped"), "the place in the source");
      contents = json.at("contents").get<std::string>();
    } catch (const Json::exception& error) {
      fail(fmt::format("its place cannot be read ({})", error.what()));
    }
    if (next_file >= files.size()) fail(fmt::format("it has {} files, not more than {}", files.size(), next_file));
    for (std::size_t i = 0; i < next_file; ++i) finished_bytes += file_bytes(files[i].path);
    const std::size_t index = next_file;
    for (Document document; place.documents_ < documents;) {
      throw_if_interrupted();
      if (!next(document) || place.file_->index != index)
        fail(fmt::format("{} has fewer than {} documents", files[index].path.string(), documents));
    }
  }

  bool accept(std::string& text) {
    if (!has_fields)
      text.swap(record.fields.front().text);
    else if (!converter.convert(record, text, fault))
      return bad(reader->position());
    return finish(text, text.empty() ? reader->position() : "");
  }

  // Counts a document; an empty one is skipped.
  bool finish(const std::string& text, const std::string& position) {
    if (text.empty()) {
      fault = {"empty text", "an empty text", ""};
      return skip(position);
    }
    ++counts.documents;
    counts.bytes += static_cast<std::int64_t>(text.size());
    return true;
  }

  bool bad(const std::string& position) {
    if (source.on_bad_record == BadRecord::kSkip) return skip(position);
    require_unchanged();
    throw DataError(
        "{}: {}: found {}; expected {}. Fix the record, or skip and count such records: on_bad_record: skip, or "
        "--on-bad-record skip.",
        position, fault.reason, fault.found, fault.expected);
  }

  bool skip(const std::string& position) {
    ++counts.skipped[fault.reason];
    if (skipped.size() < kMaxListedSkips) skipped.push_back({position, fault.reason, fault.found});
    return false;
  }

  static std::int64_t file_bytes(const fs::path& path) {
    std::error_code error;
    const auto size = fs::file_size(path, error);
    return error ? 0 : static_cast<std::int64_t>(size);
  }

  TextSource source;
  RecordText converter;
  std::vector<InputFile> files;
  std::size_t next_file = 0;
  std::unique_ptr<Reader> reader;                     // of the open file
  bool has_fields = false;                            // of the open file
  bool has_records = false;                           // of the open file, so far
  std::optional<ConversationRenderer> conversations;  // of a source with a messages_field
  std::deque<ConversationText> rendered;              // which are returned next
  std::string last_position;                          // of the file that was closed last, or of the last conversation
  Record record;
  Fault fault;
  ReaderPlace place;
  bool hashes_contents = false;
  std::string contents;  // hash of the files that were closed
  std::int64_t finished_bytes = 0;
  std::int64_t total_bytes = 0;
  SourceCounts counts;
  std::vector<SkippedRecord> skipped;
};

DocumentReader::DocumentReader(const TextSource& source, const ChatTemplate* chat)
    : state_(std::make_unique<State>(source, chat)) {}
DocumentReader::~DocumentReader() = default;
DocumentReader::DocumentReader(DocumentReader&&) noexcept = default;
DocumentReader& DocumentReader::operator=(DocumentReader&&) noexcept = default;

bool DocumentReader::next(Document& document) { return state_->next(document); }
bool DocumentReader::next(std::string& text) {
  Document document;
  document.text.swap(text);
  const bool found = next(document);
  text.swap(document.text);
  return found;
}
ReaderPlace DocumentReader::place() const { return state_->place; }
void DocumentReader::go_to(const Json& place) { state_->go_to(place); }
void DocumentReader::hash_contents() { state_->hashes_contents = true; }
const std::string& DocumentReader::hash_of_contents() const { return state_->contents; }
const SourceCounts& DocumentReader::counts() const { return state_->counts; }
const std::vector<SkippedRecord>& DocumentReader::skipped() const { return state_->skipped; }
std::string DocumentReader::position() const {
  return state_->reader && !state_->conversations ? state_->reader->position() : state_->last_position;
}
std::int64_t DocumentReader::file_bytes_read() const {
  return state_->finished_bytes + (state_->reader ? state_->reader->file_position() : 0);
}
std::int64_t DocumentReader::file_bytes_total() const { return state_->total_bytes; }

}  // namespace adept::data
