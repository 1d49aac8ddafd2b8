#include "adept/data/text_source.h"

#include <algorithm>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/signals.h"
#include "adept/data/source_files.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

/// The name and the path of an argument; the name is empty if it has none.
std::pair<std::string, std::string> split_name(std::string_view argument) {
  const auto equals = argument.find('=');
  const auto slash = argument.find('/');
  if (equals == std::string_view::npos || slash < equals) return {"", std::string(argument)};
  if (equals == 0) throw ConfigError("the data \"{}\" has no name before the \"=\"; expected NAME=PATH.", argument);
  return {std::string(argument.substr(0, equals)), std::string(argument.substr(equals + 1))};
}

bool is_name_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
}

std::string name_after(const std::string& path) {
  std::filesystem::path file = std::filesystem::path(path).lexically_normal();
  if (!file.has_filename()) file = file.parent_path();  // a folder with a slash at its end
  std::string name = bare_name(file);
  std::replace_if(name.begin(), name.end(), [](char c) { return !is_name_character(c); }, '_');
  return name;
}

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

void check_source_name(const std::string& name) {
  if (name.empty() || !std::all_of(name.begin(), name.end(), is_name_character))
    throw ConfigError("\"{}\" is no name of a data source; expected letters, digits, '_', '-' and '.'.", name);
}

TextSource parse_named_source(std::string_view argument) {
  auto [name, path] = split_name(argument);
  if (path.empty()) throw ConfigError("the data \"{}\" has no path; expected NAME=PATH or PATH.", argument);
  if (name.empty()) name = name_after(path);
  check_source_name(name);
  return TextSource{.name = name, .paths = {path}};
}

std::vector<TextSource> parse_named_sources(std::span<const std::string> arguments) {
  std::vector<TextSource> sources;
  std::vector<bool> is_named;
  for (const std::string& argument : arguments) {
    TextSource source = parse_named_source(argument);
    const bool named = !split_name(argument).first.empty();
    const auto same =
        std::find_if(sources.begin(), sources.end(), [&](const auto& s) { return s.name == source.name; });
    if (same == sources.end()) {
      sources.push_back(std::move(source));
      is_named.push_back(named);
    } else if (named && is_named[static_cast<std::size_t>(same - sources.begin())]) {
      same->paths.push_back(source.paths.front());
    } else {
      throw ConfigError("the data {} and {} are both called \"{}\"; name them apart: NAME=PATH.", same->paths.front(),
                        source.paths.front(), source.name);
    }
  }
  return sources;
}

}  // namespace adept::data
