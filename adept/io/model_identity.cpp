#include "adept/io/model_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <initializer_list>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/io/mapped_file.h"

namespace adept::io {
namespace {

constexpr char kWeights[] = "weights", kConfig[] = "config.json", kTokenizer[] = "tokenizer";

// Hash of the names and bytes of the existing files.
std::string hash_of_files(const std::filesystem::path& dir, std::initializer_list<const char*> names) {
  Hasher hasher;
  for (const char* name : names) {
    std::error_code error;
    if (std::filesystem::symlink_status(dir / name, error).type() == std::filesystem::file_type::not_found) continue;
    const auto file = MappedFile::open(dir / name);
    hasher.update(fmt::format("{} {} ", name, file->bytes().size())).update(file->bytes());
  }
  return hasher.digest();
}

}  // namespace

ModelIdentity model_identity(const WeightFiles& files) {
  return {.weights = files.hash(),
          .config = hash_of_files(files.directory(), {"config.json"}),
          .tokenizer = hash_of_files(files.directory(), {"tokenizer.json", "tokenizer_config.json",
                                                         "special_tokens_map.json", "added_tokens.json"})};
}

Json to_json(const ModelIdentity& identity) {
  return {{kWeights, identity.weights}, {kConfig, identity.config}, {kTokenizer, identity.tokenizer}};
}

ModelIdentity model_identity_from_json(const Json& json, const std::string& prefix) {
  const auto part = [&](const char* key) {
    if (!json.is_object() || !json.contains(key)) throw DataError("{}{} is missing", prefix, key);
    if (!json.at(key).is_string())
      throw DataError("{}{} is {}; expected a string", prefix, key, json.at(key).type_name());
    return json.at(key).get<std::string>();
  };
  return {.weights = part(kWeights), .config = part(kConfig), .tokenizer = part(kTokenizer)};
}

std::string differing_parts(const ModelIdentity& a, const ModelIdentity& b) {
  std::vector<std::string> parts;
  if (a.weights != b.weights) parts.emplace_back(kWeights);
  if (a.config != b.config) parts.emplace_back(kConfig);
  if (a.tokenizer != b.tokenizer) parts.emplace_back("tokenizer files");
  return fmt::format("{}", fmt::join(parts, " and "));
}

}  // namespace adept::io
