#include "adept/data/tokenize.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
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

/// Documents that one thread tokenizes in one go.
struct Chunk {
  std::vector<std::string> texts;
  std::vector<std::string> positions;
  std::vector<std::vector<std::int32_t>> ids;
  std::exception_ptr error;
  bool done = false;
};

std::vector<std::int32_t> encode(const std::string& text, const TextEncoder& encoder) {
  std::vector<std::int32_t> ids = encoder.encode(text);
  for (const std::int32_t id : ids)
    if (id < 0 || id >= encoder.vocab_size)
      throw DataError(
          "the tokenizer gives the id {}, but the model's vocabulary has {} ids; they do not belong together.", id,
          encoder.vocab_size);
  return ids;
}

void encode_chunk(Chunk& chunk, const TextEncoder& encoder) {
  try {
    chunk.ids.reserve(chunk.texts.size());
    for (const std::string& text : chunk.texts) chunk.ids.push_back(encode(text, encoder));
  } catch (const DataError& error) {
    chunk.error = std::make_exception_ptr(DataError("{}: {}", chunk.positions[chunk.ids.size()], error.what()));
  } catch (...) {
    chunk.error = std::current_exception();
  }
}

/// Threads that tokenize chunks in the order of their arrival. Where the system gives fewer (a limit of processes, of
/// memory), these do it all; where it gives none, the caller does.
class EncoderThreads {
 public:
  EncoderThreads(int num_threads, const TextEncoder& encoder) : encoder_(encoder) {
    try {
      while (std::ssize(threads_) < num_threads) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error& error) {
      spdlog::warn("{} of {} threads to tokenize with can be started ({}); fewer do the work", threads_.size(),
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

  /// The chunk must stay where it is until wait() returned for it.
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

bool read_chunk(DocumentReader& reader, std::size_t chunk_bytes, Chunk& chunk) {
  std::string text;
  for (std::size_t bytes = 0; bytes < chunk_bytes && reader.next(text);) {
    bytes += text.size();
    chunk.positions.push_back(reader.position());
    chunk.texts.push_back(std::move(text));
  }
  return !chunk.texts.empty();
}

TokenDataset run(TokenSink& sink, const TextSource& source, const TextEncoder& encoder, const TokenizeOptions& options,
                 Progress& progress) {
  ADEPT_CHECK(encoder.encode && encoder.vocab_size > 0, "an encoder without a vocabulary");
  DatasetInfo info{.name = source.name,
                   .vocab_size = encoder.vocab_size,
                   .source_fingerprint = source_fingerprint(source),
                   .tokenizer_fingerprint = encoder.fingerprint,
                   .counts = {}};
  DocumentReader reader(source);
  progress.set_total(reader.file_bytes_total());
  const int num_threads = resolve_threads(options.num_threads);
  std::deque<std::unique_ptr<Chunk>> in_flight;
  EncoderThreads threads(num_threads, encoder);  // after the chunks, so that it ends before they do
  std::int64_t num_tokens = 0, num_empty = 0;
  for (bool more = true; more || !in_flight.empty();) {
    throw_if_interrupted();
    while (more && in_flight.size() < static_cast<std::size_t>(2 * num_threads + 1)) {
      auto chunk = std::make_unique<Chunk>();
      more = read_chunk(reader, options.chunk_bytes, *chunk);
      if (!more) break;
      in_flight.push_back(std::move(chunk));
      threads.submit(*in_flight.back());
    }
    if (in_flight.empty()) break;
    threads.wait(*in_flight.front());
    const std::unique_ptr<Chunk> chunk = std::move(in_flight.front());
    in_flight.pop_front();
    if (chunk->error) std::rethrow_exception(chunk->error);
    for (std::size_t i = 0; i < chunk->ids.size(); ++i) {
      num_tokens += static_cast<std::int64_t>(chunk->ids[i].size());
      if (chunk->ids[i].empty())
        ++num_empty;
      else
        sink.add(chunk->ids[i], static_cast<std::int64_t>(chunk->texts[i].size()));
    }
    progress.update(reader.file_bytes_read(), num_tokens,
                    fmt::format("{} documents", format_count(reader.counts().documents)));
  }
  info.counts = reader.counts();
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
