#include "adept/data/interchange/token_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/parallel.h"
#include "adept/core/signals.h"
#include "adept/data/readers/formats.h"
#include "adept/data/source_paths.h"
#include "adept/data/store/token_store.h"
#include "adept/data/text_source.h"
#include "adept/io/file_stamp.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kDocumentsToLookAt = 1000;              // for their EOS
constexpr std::int64_t kDecodedIds = std::int64_t{1} << 20;    // of a document at once
constexpr std::int64_t kIdsPerThread = std::int64_t{1} << 18;  // that are kept until they are decoded together
constexpr char kEmptyDocuments[] = "without_ids";

std::string_view name_of_format(TokenFormat format) {
  return format == TokenFormat::kStore      ? "a token store"
         : format == TokenFormat::kMegatron ? "a Megatron-Core dataset"
                                            : "a datatrove token file";
}

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

fs::path with_suffix(const fs::path& path, const char* suffix) { return path.string() + suffix; }

// The .bin of a prefix, or of one of its two files.
std::optional<fs::path> megatron_file(const fs::path& path) {
  fs::path prefix = path;
  if (is_file(path)) {
    if (path.extension() != ".bin" && path.extension() != ".idx") return std::nullopt;
    prefix.replace_extension();
  }
  if (!is_file(with_suffix(prefix, ".bin")) || !is_file(with_suffix(prefix, ".idx"))) return std::nullopt;
  return with_suffix(prefix, ".bin");
}

struct TokenPath {
  TokenFormat format;
  std::vector<fs::path> parts;
};

// What a path of a source is; nothing for text.
std::optional<TokenPath> token_path(const std::string& path) {
  std::error_code error;
  if (path.empty() || path == "-" || path.starts_with('@')) return std::nullopt;
  const bool is_folder = fs::is_directory(path, error);
  if (is_folder && is_store(path)) return TokenPath{TokenFormat::kStore, {path}};
  if (is_folder && written_folder(path) == kStoreFolder)
    throw DataError(
        "{}: is a token store that is not complete: it has no store.json. Finish it with the same call of adept "
        "tokenize, which goes on after the last shard, or delete the folder.",
        path);
  if (const auto bin = megatron_file(path)) {
    if (is_folder)
      throw ConfigError(
          "{}: found a folder, and a Megatron-Core dataset of this prefix ({}); expected one of them. Write {}/ for "
          "the "
          "folder, or {} for the dataset.",
          path, bin->string(), path, bin->string());
    return TokenPath{TokenFormat::kMegatron, {*bin}};
  }
  std::vector<fs::path> found;
  if (is_folder)
    found = sorted_entries(path, error);
  else if (is_file(path))
    found = {path};
  else if (is_glob(path))
    found = expand_glob(path);
  const auto is_text = [](const fs::path& file) {
    return is_file(file) && format_of_file(file) != nullptr && file.stem() != "README";
  };
  const auto text = std::find_if(found.begin(), found.end(), is_text);
  const std::string text_name = text == found.end() ? "" : text->string();
  std::erase_if(found, [](const fs::path& file) { return file.extension() != ".ds" || !is_file(file); });
  if (found.empty()) return std::nullopt;
  if (!text_name.empty())
    throw ConfigError("{}: found token files of datatrove ({}) and text ({}); expected one kind. Name the files.", path,
                      found.front().string(), text_name);
  return TokenPath{TokenFormat::kDatatrove, found};
}

void check_token_options(const TextSource& source, TokenFormat format) {
  std::string options;
  const auto add = [&](const char* name, bool is_set) {
    if (is_set) options += (options.empty() ? "" : ", ") + std::string(name);
  };
  add("format", source.format.has_value());
  add("split", source.split.has_value());
  add("text_field", source.text_field.has_value());
  add("template", source.text_template.has_value());
  add("messages_field", source.messages_field.has_value());
  add("train_on", source.train_on != TrainOn::kAll);
  add("txt_record", source.txt_record.has_value());
  if (!options.empty())
    throw ConfigError("source \"{}\": found {}, but it is {}, whose documents are token ids. Remove {}.", source.name,
                      options, name_of_format(format), options.find(',') == std::string::npos ? "it" : "them");
}

std::unique_ptr<TokenFileReader> open_part(const TokenFiles& files, std::size_t part) {
  return files.format == TokenFormat::kMegatron ? open_megatron(files.parts[part]) : open_datatrove(files.parts[part]);
}

std::string quoted_token(const TextEncoder& encoder, std::int64_t id) {
  if (!encoder.token_of || id < 0 || id >= encoder.vocab_size) return "";
  const std::string token = encoder.token_of(static_cast<std::int32_t>(id));
  return token.empty() ? "" : fmt::format(" ({})", io::quote(token));
}

// A token that stands for no text: a special one, or one that the tokenizer lacks.
bool is_special(const TextEncoder& encoder, std::int64_t id) {
  if (!encoder.text_of || id < 0 || id >= encoder.vocab_size) return false;
  const auto token = static_cast<std::int32_t>(id);
  return encoder.text_of(std::span(&token, 1)).empty();
}

bool ends_text(const TextEncoder& encoder, std::int64_t id) {
  return id == encoder.eos || std::ranges::find(encoder.end_tokens, id) != encoder.end_tokens.end();
}

// If all documents end in the same special token, it is the EOS of the tokenizer that made them, or the end of a turn.
void check_eos(const TokenFileReader& reader, const TextEncoder& encoder) {
  if (!encoder.eos) return;
  const std::int64_t count = std::min(reader.num_documents(), kDocumentsToLookAt);
  std::optional<std::int64_t> common;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::optional<std::int64_t> last = reader.last_id(i);
    if (!last) continue;
    if (common && common != last) return;
    common = last;
  }
  if (!common || ends_text(encoder, *common) || !is_special(encoder, *common)) return;
  throw DataError(
      "{}: documents 0 to {} end in the token {}{}, but the EOS token of the model is {}{}; expected documents that "
      "end in that one, in another end token of the model, or in none. Tokenize the text with the tokenizer of this "
      "model; or, if the token ends texts of this model too, add it to eos_token_id in generation_config.json.",
      reader.path().string(), count - 1, *common, quoted_token(encoder, *common), *encoder.eos,
      quoted_token(encoder, *encoder.eos));
}

/// Checks the ids of documents, measures their text on several threads, and passes them on in order.
class TokenImport {
 public:
  TokenImport(const TextEncoder& encoder, int num_threads, std::int64_t num_empty, TokenSink& sink)
      : encoder_(encoder), num_threads_(num_threads), num_empty_(num_empty), sink_(sink) {}

  void add(const TokenFileReader& reader, std::size_t part, std::int64_t document) {
    std::int64_t num_ids = 0;
    reader.read(document, [&](std::span<const std::int64_t> ids) {
      throw_if_interrupted();
      for (const std::int64_t id : ids) {
        if (id < 0 || id >= encoder_.vocab_size)
          throw DataError(
              "{}: document {}, token {}: found the id {}, but the model's vocabulary has {} ids; they do not match. "
              "Tokenize the text with the tokenizer of this model.",
              reader.path().string(), document, num_ids, id, encoder_.vocab_size);
        if (num_ids++ % kDecodedIds == 0) start_piece();
        pieces_.back().ids.push_back(static_cast<std::int32_t>(id));
        ++ids_in_pieces_;
      }
    });
    if (num_ids == 0) pieces_.emplace_back();
    pieces_.back().end = DocumentEnd{.part = part, .documents = document + 1};
    if (is_full()) flush();
  }

  void flush() {
    if (encoder_.text_of)
      for_each_in_parallel(std::ssize(pieces_), num_threads_, [&](std::int64_t i) {
        throw_if_interrupted();
        Piece& piece = pieces_[static_cast<std::size_t>(i)];
        piece.text_bytes = std::ssize(encoder_.text_of(piece.ids));
      });
    for (const Piece& piece : pieces_) pass_on(piece);
    pieces_.clear();
    ids_in_pieces_ = 0;
  }

  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return num_documents_; }
  std::int64_t num_empty() const { return num_empty_; }  // documents without ids

 private:
  struct DocumentEnd {
    std::size_t part = 0;
    std::int64_t documents = 0;  // of the part
  };
  /// A document, or a part of a long one.
  struct Piece {
    std::vector<std::int32_t> ids;
    std::int64_t text_bytes = 0;
    std::optional<DocumentEnd> end;  // of the last piece of a document
  };

  bool is_full() const { return ids_in_pieces_ + std::ssize(pieces_) >= num_threads_ * kIdsPerThread; }
  // Pieces of one long document are passed on before it ends.
  void start_piece() {
    if (is_full()) flush();
    pieces_.emplace_back();
  }

  void pass_on(const Piece& piece) {
    if (!piece.ids.empty()) sink_.append(piece.ids);
    num_tokens_ += std::ssize(piece.ids);
    text_bytes_ += piece.text_bytes;
    if (!piece.end) return;
    ++num_documents_;
    if (piece.ids.empty())
      ++num_empty_;
    else
      sink_.end_document(text_bytes_, Untrained(), [&] {
        return Json{{"part", piece.end->part}, {"documents", piece.end->documents}, {kEmptyDocuments, num_empty_}};
      });
    text_bytes_ = 0;
  }

  const TextEncoder& encoder_;
  int num_threads_;
  std::int64_t num_empty_;
  TokenSink& sink_;
  std::vector<Piece> pieces_;
  std::int64_t ids_in_pieces_ = 0;
  std::int64_t text_bytes_ = 0;  // of the document that is passed on
  std::int64_t num_tokens_ = 0, num_documents_ = 0;
};

}  // namespace

std::optional<TokenFiles> find_token_files(const TextSource& source) {
  std::optional<TokenFiles> found;
  std::string text;
  for (const std::string& path : source.paths) {
    const std::optional<TokenPath> tokens = token_path(path);
    if (!tokens) {
      if (text.empty()) text = path;
      continue;
    }
    if (!found) found = TokenFiles{.format = tokens->format, .parts = {}, .files = {}};
    if (found->format != tokens->format)
      throw ConfigError("source \"{}\": found {} and {} ({}); expected one kind. Make two sources of them.",
                        source.name, name_of_format(found->format), name_of_format(tokens->format), path);
    found->parts.insert(found->parts.end(), tokens->parts.begin(), tokens->parts.end());
  }
  if (!found) return std::nullopt;
  if (!text.empty())
    throw ConfigError(
        "source \"{}\": found {} and text or an absent file ({}); expected one kind. Make two sources of "
        "them.",
        source.name, name_of_format(found->format), text);
  check_token_options(source, found->format);
  if (found->format == TokenFormat::kStore && found->parts.size() > 1)
    throw ConfigError("source \"{}\": found {} token stores; expected one per source. Make a source of each.",
                      source.name, found->parts.size());
  for (const fs::path& part : found->parts) {
    if (found->format == TokenFormat::kStore) {
      found->files.push_back(part / "store.json");
      continue;
    }
    const fs::path index = found->format == TokenFormat::kMegatron ? fs::path(part).replace_extension(".idx")
                                                                   : with_suffix(part, ".index");
    if (!is_file(index))
      throw DataError("{}: has no index {}; expected a file with the ends of its documents (save_index in datatrove).",
                      part.string(), index.filename().string());
    found->files.push_back(part);
    found->files.push_back(index);
  }
  return found;
}

void read_token_files(const TokenFiles& files, const TextEncoder& encoder, int num_threads, const Json& place,
                      Progress& progress, TokenSink& sink, DatasetInfo& info) {
  std::vector<io::FileStamp> stamps;
  for (const fs::path& file : files.files) stamps.push_back(io::stamp_of(file));
  std::vector<std::unique_ptr<TokenFileReader>> readers;
  std::vector<std::int64_t> bytes_before = {0};
  for (std::size_t part = 0; part < files.parts.size(); ++part) {
    readers.push_back(open_part(files, part));
    check_eos(*readers.back(), encoder);
    bytes_before.push_back(bytes_before.back() + readers.back()->bytes_before(readers.back()->num_documents()));
  }
  const auto first_part = place.is_null() ? 0 : place.at("part").get<std::size_t>();
  std::int64_t document = place.is_null() ? 0 : place.at("documents").get<std::int64_t>();
  TokenImport importer(encoder, num_threads, place.is_null() ? 0 : place.at(kEmptyDocuments).get<std::int64_t>(), sink);
  ADEPT_CHECK(first_part < readers.size() && document <= readers[first_part]->num_documents(),
              "document {} of file {} of {}", document, first_part, readers.size());
  progress.set_total(bytes_before.back());
  progress.set_start(bytes_before[first_part] + readers[first_part]->bytes_before(document));
  for (std::size_t part = first_part; part < readers.size(); ++part, document = 0)
    for (; document < readers[part]->num_documents(); ++document) {
      throw_if_interrupted();
      importer.add(*readers[part], part, document);
      progress.update(bytes_before[part] + readers[part]->bytes_before(document + 1), importer.num_tokens(),
                      fmt::format("{} documents", format_count(importer.num_documents())));
    }
  importer.flush();
  for (std::size_t i = 0; i < files.files.size(); ++i) io::require_unchanged(files.files[i], stamps[i]);
  info.counts.files = std::ssize(files.parts);
  if (importer.num_empty() > 0) info.counts.skipped["no tokens"] = importer.num_empty();
  if (sink.keeps_content_hash())
    for (const fs::path& file : files.files) info.content_hash = extend_content_hash(info.content_hash, file);
  progress.finish(fmt::format("{} documents, {} tokens", format_count(importer.num_documents()),
                              format_count(importer.num_tokens())));
}

TokenDataset open_store_as(const fs::path& folder, const TextSource& source, const TextEncoder& encoder) {
  TokenDataset dataset = open_store(folder).renamed(source.name);
  const DatasetInfo& info = dataset.info();
  const auto fail = [&](const std::string& what, const std::string& store, const std::string& model) {
    throw DataError(
        "{}: the {} of this token store is {}, but that of the model {}; they do not match. Tokenize the text "
        "with the tokenizer of this model.",
        folder.string(), what, store, model);
  };
  const std::string vocabulary = encoder.vocabulary ? encoder.vocabulary() : "";
  if (!info.vocabulary_fingerprint.empty() && !vocabulary.empty() && info.vocabulary_fingerprint != vocabulary)
    fail("vocabulary", info.vocabulary_fingerprint, vocabulary);
  if (info.vocab_size > encoder.vocab_size)
    fail("vocabulary's size", std::to_string(info.vocab_size), std::to_string(encoder.vocab_size));
  if (info.eos && encoder.eos && !ends_text(encoder, *info.eos))
    fail("EOS token", std::to_string(*info.eos) + quoted_token(encoder, *info.eos),
         std::to_string(*encoder.eos) + quoted_token(encoder, *encoder.eos));
  return dataset;
}

}  // namespace adept::data
