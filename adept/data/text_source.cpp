#include "adept/data/text_source.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/signals.h"
#include "adept/data/answers.h"
#include "adept/data/source_files.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

constexpr std::size_t kHashBlock = std::size_t{1} << 20;
constexpr std::int64_t kSmallFile = 64 << 10;  // whose bytes are all part of the fingerprint
constexpr std::int64_t kSampleBytes = 4 << 10;
constexpr std::int64_t kNumSamples = 16;

// All bytes from the current position on.
void hash_rest(const UniqueFd& fd, const std::filesystem::path& path, Hasher& hasher) {
  std::vector<char> block(kHashBlock);
  std::uint64_t size = 0;
  while (const std::size_t count = read_some(fd.get(), block, path)) {
    throw_if_interrupted();
    hasher.update(std::string_view(block.data(), count));
    size += count;
  }
  hasher.update(fmt::format("\n{} bytes\n", size));
}

// Evenly spread, from the first bytes to the last.
void hash_samples(const UniqueFd& fd, const std::filesystem::path& path, std::int64_t size, Hasher& hasher) {
  std::vector<char> sample(kSampleBytes);
  for (std::int64_t i = 0; i < kNumSamples; ++i) {
    const std::int64_t at = (size - kSampleBytes) / (kNumSamples - 1) * i;
    if (::lseek(fd.get(), i + 1 == kNumSamples ? size - kSampleBytes : at, SEEK_SET) < 0)
      throw system_error(path, "read", errno);
    const std::size_t count = read_some(fd.get(), sample, path);
    hasher.update(std::string_view(sample.data(), count));
  }
}

void hash_version(const std::filesystem::path& path, Hasher& hasher) {
  const UniqueFd fd = io::open_rereadable(path);
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) throw system_error(path, "look at", errno);
  if (io::is_stream(path) || !S_ISREG(status.st_mode)) return hash_rest(fd, path, hasher);
  hasher.update(
      fmt::format("{} bytes, modified {}.{}\n", status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec));
  if (status.st_size <= kSmallFile) return hash_rest(fd, path, hasher);
  hash_samples(fd, path, status.st_size, hasher);
}

}  // namespace

std::string source_fingerprint(const TextSource& source) {
  Hasher hasher;
  const std::string field = source.text_field.value_or(kDefaultTextField);
  hasher.update(fmt::format("{}\n{}\n{}\n{}\n", field.size(), field,
                            static_cast<int>(source.txt_record.value_or(TxtRecord::kFile)),
                            static_cast<int>(source.on_bad_record)));
  // Options that are not set do not count, so a new one does not invalidate what exists. A number changes when the
  // documents of the same option may change.
  if (source.text_template)
    hasher.update(fmt::format("template 2, {}\n{}\n", source.text_template->size(), *source.text_template));
  if (source.messages_field)
    hasher.update(fmt::format("messages 2, {}\n{}\n", source.messages_field->size(), *source.messages_field));
  if (source.train_on == TrainOn::kAssistant) hasher.update(fmt::format("{}\n", kAnswersRule));
  const SourceFiles found = find_files(source);
  for (const std::filesystem::path& file : found.files) {
    throw_if_interrupted();
    hasher.update(found.are_tokens ? "tokens\n" : fmt::format("kind {}\n", format_index(format_in(source, file))));
    hash_version(file, hasher);
  }
  return hasher.digest();
}

std::string extend_content_hash(const std::string& hash, const std::filesystem::path& file) {
  Hasher hasher;
  hasher.update(hash + "\n");
  hash_rest(io::open_rereadable(file), file, hasher);
  return hasher.digest();
}

std::string content_hash(const TextSource& source) {
  std::string hash;
  for (const std::filesystem::path& file : find_files(source).files) hash = extend_content_hash(hash, file);
  return hash;
}

}  // namespace adept::data
