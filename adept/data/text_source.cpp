#include "adept/data/text_source.h"

#include <fmt/format.h>

#include <vector>

#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/signals.h"
#include "adept/data/source_files.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

void hash_file(const std::filesystem::path& path, Hasher& hasher) {
  const UniqueFd fd = io::open_rereadable(path);
  std::vector<char> block(kBlockBytes);
  std::uint64_t size = 0;
  while (const std::size_t count = read_some(fd.get(), block, path)) {
    throw_if_interrupted();
    hasher.update(std::string_view(block.data(), count));
    size += count;
  }
  hasher.update(fmt::format("\n{} bytes\n", size));
}

}  // namespace

std::string source_fingerprint(const TextSource& source) {
  Hasher hasher;
  hasher.update(fmt::format("{}\n{}\n{}\n{}\n", source.text_field.size(), source.text_field,
                            static_cast<int>(source.txt_record), static_cast<int>(source.on_bad_record)));
  for (const std::filesystem::path& file : find_files(source).files) {
    hasher.update(fmt::format("kind {}\n", static_cast<int>(*file_kind(file))));
    hash_file(file, hasher);
  }
  return hasher.digest();
}

}  // namespace adept::data
