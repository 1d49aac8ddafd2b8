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
#include "adept/data/token_file.h"

namespace adept::data {
namespace {

constexpr std::size_t kStreamedBytes = std::size_t{4} << 20;      // of a document whose ids are not collected first
constexpr std::size_t kMaxBytesInFlight = std::size_t{64} << 20;  // of text, and one document more

/// Documents that one thread tokenizes at a time.
struct Chunk {
  std::vector<std::string> texts;
  std::vector<std::string> positions;
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::int64_t> bytes;  // of the texts that have ids
  std::size_t num_bytes = 0;        // of all texts, as read
  std::exception_ptr error;
  bool done = false;

  bool is_streamed() const { return num_bytes >= kStreamedBytes && positions.size() == 1; }
};

// The text of a document is released once its ids exist.
void encode_chunk(Chunk& chunk, const TextEncoder& encoder) {
  try {
    chunk.ids.reserve(chunk.texts.size());
    for (std::string& text : chunk.texts) {
      std::vector<std::int32_t> ids;
      ids.reserve(text.size() / 4 + 8);
      encoder.encode_checked(text, [&](std::span<const std::int32_t> part) {
        throw_if_interrupted();
        ids.insert(ids.end(), part.begin(), part.end());
      });
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
    while (chunk->num_bytes < chunk_bytes_ && (has_text_ || reader_.next(text_))) {
      has_text_ = text_.size() >= kStreamedBytes && !chunk->texts.empty();  // keep it for the next chunk
      if (has_text_) break;
      chunk->num_bytes += text_.size();
      chunk->positions.push_back(reader_.position());
      chunk->texts.push_back(std::move(text_));
      text_.clear();
    }
    return chunk->texts.empty() ? nullptr : std::move(chunk);
  }

 private:
  DocumentReader& reader_;
  std::size_t chunk_bytes_;
  std::string text_;
  bool has_text_ = false;
};

// Tokenizes a long document directly into the sink. Returns the number of its ids.
std::int64_t store_streamed(const Chunk& chunk, const TextEncoder& encoder, TokenSink& sink) {
  std::int64_t count = 0;
  try {
    encoder.encode_checked(chunk.texts.front(), [&](std::span<const std::int32_t> ids) {
      throw_if_interrupted();
      count += std::ssize(ids);
      sink.append(ids);
    });
  } catch (const DataError& error) {
    throw DataError("{}: {}", chunk.positions.front(), error.what());
  }
  if (count > 0) sink.end_document(static_cast<std::int64_t>(chunk.num_bytes));
  return count;
}

// Passes the documents of a chunk to the sink. Returns how many had no ids.
std::int64_t store(Chunk& chunk, const TextEncoder& encoder, TokenSink& sink, std::int64_t& num_tokens) {
  if (chunk.error) std::rethrow_exception(chunk.error);
  if (chunk.is_streamed()) {
    const std::int64_t count = store_streamed(chunk, encoder, sink);
    num_tokens += count;
    return count > 0 ? 0 : 1;
  }
  std::int64_t num_empty = 0;
  for (std::size_t i = 0; i < chunk.ids.size(); ++i) {
    num_tokens += std::ssize(chunk.ids[i]);
    if (chunk.ids[i].empty())
      ++num_empty;
    else
      sink.add(chunk.ids[i], chunk.bytes[i]);
    std::vector<std::int32_t>().swap(chunk.ids[i]);
  }
  return num_empty;
}

TokenDataset run(TokenSink& sink, const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options,
                 Progress& progress) {
  ADEPT_CHECK(encoder.encode && encoder.vocab_size > 0, "an encoder without a vocabulary");
  DocumentReader reader(source, encoder.chat.get());  // before the files are hashed: it notices changes from here on
  DatasetInfo info{.name = source.name,
                   .vocab_size = encoder.vocab_size,
                   .source_fingerprint = source_fingerprint(source),
                   .tokenizer_fingerprint = encoder.fingerprint,
                   .counts = {}};
  progress.set_total(reader.file_bytes_total());
  const int num_threads = resolve_threads(options.num_threads);
  ChunkReader chunks(reader, options.chunk_bytes);
  std::deque<std::unique_ptr<Chunk>> in_flight;
  std::size_t bytes_in_flight = 0;
  EncoderThreads threads(num_threads, encoder);  // declared after the chunks, so it is destroyed first
  std::int64_t num_tokens = 0, num_empty = 0;
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
    num_empty += store(*chunk, encoder, sink, num_tokens);
    bytes_in_flight -= chunk->num_bytes;
    progress.update(reader.file_bytes_read(), num_tokens,
                    fmt::format("{} documents", format_count(reader.counts().documents)));
  }
  info.counts = reader.counts();
  if (options.skipped != nullptr) *options.skipped = reader.skipped();
  if (num_empty > 0) info.counts.skipped["no tokens"] += num_empty;
  progress.finish(fmt::format("{} documents, {} tokens", format_count(info.counts.documents - num_empty),
                              format_count(num_tokens)));
  return sink.finish(std::move(info));
}

}  // namespace

TokenDataset tokenize(const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options,
                      Progress& progress) {
  MemorySink sink;
  return run(sink, source, encoder, options, progress);
}

TokenDataset tokenize_to_file(const std::filesystem::path& path, const TextSource& source, const TextEncoder& encoder,
                              const TokenizeOptions& options, Progress& progress) {
  FileSink sink(path);
  return run(sink, source, encoder, options, progress);
}

}  // namespace adept::data
