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
  const std::string field = source.text_field.value_or(kDefaultTextField);
  hasher.update(fmt::format("{}\n{}\n{}\n{}\n", field.size(), field,
                            static_cast<int>(source.txt_record.value_or(TxtRecord::kFile)),
                            static_cast<int>(source.on_bad_record)));
  // Options that are not set do not count, so a new one does not invalidate what exists.
  if (source.text_template)
    hasher.update(fmt::format("template {}\n{}\n", source.text_template->size(), *source.text_template));
  if (source.messages_field)
    hasher.update(fmt::format("messages {}\n{}\n", source.messages_field->size(), *source.messages_field));
  for (const std::filesystem::path& file : find_files(source).files) {
    hasher.update(fmt::format("kind {}\n", format_index(format_in(source, file))));
    hash_file(file, hasher);
  }
  return hasher.digest();
}

}  // namespace adept::data
