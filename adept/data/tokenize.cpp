#include "adept/data/tokenize.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/data/interchange/token_files.h"
#include "adept/data/store/store_record.h"
#include "adept/data/token_sink.h"
#include "adept/data/untrained_tokens.h"

namespace adept::data {
namespace {

constexpr std::size_t kStreamedBytes = std::size_t{4} << 20;      // of a document whose ids are not collected first
constexpr char kWithoutIds[] = "without_ids";                     // documents without ids, in the place of a store
constexpr std::size_t kMaxBytesInFlight = std::size_t{64} << 20;  // of text, and one document more

/// Documents that one thread tokenizes at a time.
struct Chunk {
  std::vector<Document> documents;
  std::vector<std::string> positions;
  std::vector<ReaderPlace> places;
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<Untrained> untrained;  // of the documents that have ids
  std::vector<std::int64_t> bytes;   // of their texts
  std::size_t num_bytes = 0;         // of all texts, as read
  std::exception_ptr error;
  bool done = false;

  // Answers are found in the collected ids.
  bool is_streamed() const {
    return num_bytes >= kStreamedBytes && documents.size() == 1 && documents.front().answers.empty();
  }
};

// The text of a document is released once its ids exist.
void encode_chunk(Chunk& chunk, const TextEncoder& encoder) {
  try {
    chunk.ids.reserve(chunk.documents.size());
    for (Document& document : chunk.documents) {
      std::string& text = document.text;
      std::vector<std::int32_t> ids;
      ids.reserve(text.size() / 4 + 8);
      encoder.encode_checked(text, [&](std::span<const std::int32_t> part) {
        throw_if_interrupted();
        ids.insert(ids.end(), part.begin(), part.end());
      });
      chunk.untrained.push_back(untrained_tokens(encoder, document, ids));
      chunk.bytes.push_back(static_cast<std::int64_t>(text.size()));
      std::string().swap(text);
      chunk.ids.push_back(std::move(ids));
    }
  } catch (const DataError& error) {
    chunk.error = std::make_exception_ptr(DataError("{}: {}", chunk.positions[chunk.ids.size()], error.what()));
  } catch (...) {
    chunk.error = std::current_exception();
  }
}

/// Threads that tokenize chunks in order of arrival. If the system provides fewer threads (process or memory limits),
/// these do all the work; if none, the caller does.
class EncoderThreads {
 public:
  EncoderThreads(int num_threads, const TextEncoder& encoder) : encoder_(encoder) {
    try {
      while (std::ssize(threads_) < num_threads) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error& error) {
      log_warning("only {} of {} tokenizer threads can be started ({}); continuing with these", threads_.size(),
                  num_threads, error.code().message());
    }
  }
  ~EncoderThreads() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  EncoderThreads(const EncoderThreads&) = delete;
  EncoderThreads& operator=(const EncoderThreads&) = delete;

  /// The chunk must not move until wait() has returned for it.
  void submit(Chunk& chunk) {
    if (threads_.empty()) {
      encode_chunk(chunk, encoder_);
      chunk.done = true;
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back(&chunk);
    }
    work_.notify_one();
  }
  void wait(const Chunk& chunk) {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return chunk.done; });
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      Chunk& chunk = *queue_.front();
      queue_.pop_front();
      lock.unlock();
      encode_chunk(chunk, encoder_);
      lock.lock();
      chunk.done = true;
      finished_.notify_all();
    }
  }

  const TextEncoder& encoder_;
  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::deque<Chunk*> queue_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

int resolve_threads(int requested) {
  if (requested < 0 || requested > 1024)
    throw ConfigError("{} tokenizer threads; expected 0 (all cores) to 1024.", requested);
  return requested > 0 ? requested : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// Returns documents in chunks; a long document is its own chunk.
class ChunkReader {
 public:
  ChunkReader(DocumentReader& reader, std::size_t chunk_bytes) : reader_(reader), chunk_bytes_(chunk_bytes) {}

  /// nullptr after the last document.
  std::unique_ptr<Chunk> next() {
    auto chunk = std::make_unique<Chunk>();
    while (chunk->num_bytes < chunk_bytes_ && (has_document_ || reader_.next(document_))) {
      has_document_ = document_.text.size() >= kStreamedBytes && !chunk->documents.empty();  // for the next chunk
      if (has_document_) break;
      chunk->num_bytes += document_.text.size();
      chunk->positions.push_back(reader_.position());
      chunk->places.push_back(reader_.place());
      chunk->documents.push_back(std::exchange(document_, {}));
    }
    return chunk->documents.empty() ? nullptr : std::move(chunk);
  }

 private:
  DocumentReader& reader_;
  std::size_t chunk_bytes_;
  Document document_;
  bool has_document_ = false;
};

/// Passes tokenized documents to a sink, in order.
class Storing {
 public:
  Storing(TokenSink& sink, const TextEncoder& encoder, std::int64_t num_empty)
      : sink_(sink), encoder_(encoder), num_empty_(num_empty) {}

  void store(Chunk& chunk) {
    if (chunk.error) std::rethrow_exception(chunk.error);
    if (chunk.is_streamed()) return store_streamed(chunk);
    for (std::size_t i = 0; i < chunk.ids.size(); ++i) {
      sink_.append(chunk.ids[i]);
      end_document(std::ssize(chunk.ids[i]), chunk.bytes[i], chunk.untrained[i], chunk.places[i]);
      std::vector<std::int32_t>().swap(chunk.ids[i]);
    }
  }

  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_empty() const { return num_empty_; }  // documents without ids

 private:
  // Tokenizes a long document directly into the sink.
  void store_streamed(const Chunk& chunk) {
    std::int64_t count = 0;
    try {
      encoder_.encode_checked(chunk.documents.front().text, [&](std::span<const std::int32_t> ids) {
        throw_if_interrupted();
        count += std::ssize(ids);
        sink_.append(ids);
      });
    } catch (const DataError& error) {
      throw DataError("{}: {}", chunk.positions.front(), error.what());
    }
    end_document(count, static_cast<std::int64_t>(chunk.num_bytes), {}, chunk.places.front());
  }

  void end_document(std::int64_t count, std::int64_t bytes, const Untrained& untrained, const ReaderPlace& place) {
    num_tokens_ += count;
    if (count == 0) {
      ++num_empty_;
      return;
    }
    sink_.end_document(bytes, untrained, [&] {
      Json json = place.to_json();
      json[kWithoutIds] = num_empty_;
      return json;
    });
  }

  TokenSink& sink_;
  const TextEncoder& encoder_;
  std::int64_t num_empty_;
  std::int64_t num_tokens_ = 0;
};

// Documents of a store that lies elsewhere.
void copy_store(const std::filesystem::path& folder, const TextSource& source, const TextEncoder& encoder,
                TokenSink& sink, DatasetInfo& info) {
  const TokenDataset dataset = open_store_as(folder, source, encoder);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    throw_if_interrupted();
    ids.resize(static_cast<std::size_t>(dataset.document_tokens(i)));
    dataset.read(i, 0, ids);
    sink.add(ids, dataset.document_bytes(i), dataset.untrained(i));
  }
  info.counts = dataset.counts();
  info.skipped = dataset.info().skipped;
}

// Reads all documents from the reader's place on into the sink, and completes `info`.
void read_documents(DocumentReader& reader, const TextEncoder& encoder, const TokenizeOptions& options,
                    Progress& progress, TokenSink& sink, std::int64_t num_empty, DatasetInfo& info) {
  progress.set_total(reader.file_bytes_total());
  progress.set_start(reader.file_bytes_read());
  const int num_threads = resolve_threads(options.num_threads);
  ChunkReader chunks(reader, options.chunk_bytes);
  Storing storing(sink, encoder, num_empty);
  std::deque<std::unique_ptr<Chunk>> in_flight;
  std::size_t bytes_in_flight = 0;
  EncoderThreads threads(num_threads, encoder);  // declared after the chunks, so it is destroyed first
  for (bool more = true; more || !in_flight.empty();) {
    throw_if_interrupted();
    const auto has_room = [&] {
      return in_flight.empty() || (in_flight.size() < static_cast<std::size_t>(2 * num_threads + 1) &&
                                   bytes_in_flight < kMaxBytesInFlight && !in_flight.back()->is_streamed());
    };
    while (more && has_room()) {
      auto chunk = chunks.next();
      more = chunk != nullptr;
      if (!more) break;
      bytes_in_flight += chunk->num_bytes;
      in_flight.push_back(std::move(chunk));
      if (!in_flight.back()->is_streamed()) threads.submit(*in_flight.back());
    }
    if (in_flight.empty()) break;
    if (!in_flight.front()->is_streamed()) threads.wait(*in_flight.front());
    const std::unique_ptr<Chunk> chunk = std::move(in_flight.front());
    in_flight.pop_front();
    storing.store(*chunk);
    bytes_in_flight -= chunk->num_bytes;
    progress.update(reader.file_bytes_read(), storing.num_tokens(),
                    fmt::format("{} documents", format_count(reader.counts().documents)));
  }
  info.counts = reader.counts();
  info.skipped = reader.skipped();
  info.content_hash = reader.hash_of_contents();
  if (storing.num_empty() > 0) info.counts.skipped["no tokens"] += storing.num_empty();
  progress.finish(fmt::format("{} documents, {} tokens", format_count(info.counts.documents - storing.num_empty()),
                              format_count(storing.num_tokens())));
}

}  // namespace

DatasetInfo dataset_inputs(const TextSource& source, const TextEncoder& encoder) {
  ADEPT_CHECK(encoder.encode && encoder.vocab_size > 0, "an encoder without a vocabulary");
  return {.name = source.name,
          .vocab_size = encoder.vocab_size,
          .eos = encoder.eos,
          .source_fingerprint = source_fingerprint(source),
          .tokenizer_fingerprint = encoder.fingerprint};
}

namespace {

// Reads a source from `place` (null: from its start) into a sink, and completes `info`.
void fill_sink(TokenSink& sink, const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options,
               const Json& place, Progress& progress, DatasetInfo& info) {
  if (const std::optional<TokenFiles> tokens = find_token_files(source)) {
    if (tokens->format == TokenFormat::kStore) return copy_store(tokens->parts.front(), source, encoder, sink, info);
    return read_token_files(*tokens, encoder, resolve_threads(options.num_threads), place, progress, sink, info);
  }
  DocumentReader reader(source, encoder.chat.get());
  if (sink.keeps_content_hash()) reader.hash_contents();
  std::int64_t num_empty = 0;
  if (!place.is_null()) {
    reader.go_to(place);
    num_empty = place.value(kWithoutIds, std::int64_t{0});
  }
  read_documents(reader, encoder, options, progress, sink, num_empty, info);
}

}  // namespace

TokenDataset tokenize(const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options,
                      Progress& progress) {
  if (const std::optional<TokenFiles> tokens = find_token_files(source);
      tokens && tokens->format == TokenFormat::kStore)
    return open_store_as(tokens->parts.front(), source, encoder);
  MemorySink sink;
  DatasetInfo info = dataset_inputs(source, encoder);
  fill_sink(sink, source, encoder, options, Json(), progress, info);
  return sink.finish(std::move(info));
}

DatasetInfo tokenize_into(TokenSink& sink, const TextSource& source, const TextEncoder& encoder,
                          const TokenizeOptions& options, Progress& progress) {
  DatasetInfo info = dataset_inputs(source, encoder);
  fill_sink(sink, source, encoder, options, Json(), progress, info);
  return info;
}

TokenDataset tokenize_to_store(const std::filesystem::path& folder, const TextSource& source,
                               const TextEncoder& encoder, const TokenizeOptions& options, Progress& progress) {
  return tokenize_to_store(folder, dataset_inputs(source, encoder), source, encoder, options, progress);
}

TokenDataset tokenize_to_store(const std::filesystem::path& folder, const DatasetInfo& inputs, const TextSource& source,
                               const TextEncoder& encoder, const TokenizeOptions& options, Progress& progress) {
  return build_store(folder, inputs, options.store, [&](StoreWriter& writer) {
    DatasetInfo info = inputs;
    if (encoder.vocabulary) info.vocabulary_fingerprint = encoder.vocabulary();
    fill_sink(writer, source, encoder, options, writer.place(), progress, info);
    return info;
  });
}

void verify_source(const std::filesystem::path& folder, const TextSource& source, Progress& progress) {
  verify_store(folder, progress);
  const std::string recorded = read_store_record(folder).info.content_hash;
  if (const std::string hash = content_hash(source); hash != recorded)
    throw DataError(
        "{}: was made of other text than source \"{}\" has now: the hash of its files was {} and is {}. Delete the "
        "folder and tokenize again.",
        folder.string(), source.name, recorded, hash);
}

bool verify_or_discard(const std::filesystem::path& folder, const TextSource& source, OnOtherStore on_other,
                       Progress& progress) {
  try {
    verify_source(folder, source, progress);
    return true;
  } catch (const DataError& error) {
    if (on_other == OnOtherStore::kFail) throw;
    log_warning("{} Tokenizing again.", error.what());
  }
  remove_store_record(folder);
  return false;
}

}  // namespace adept::data
