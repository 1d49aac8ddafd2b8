#include "adept/data/splits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <regex>
#include <set>
#include <tuple>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/io/byte_reader.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<std::string_view, std::string_view> kSplitNames[] = {
    {"train", "train"},      {"training", "train"}, {"validation", "validation"},
    {"valid", "validation"}, {"val", "validation"}, {"dev", "validation"},
    {"test", "test"},        {"testing", "test"},   {"eval", "test"},
    {"evaluation", "test"}};

// "train" for "my_train-1"; empty if no word is the common name of a split.
std::string split_in_words(const std::string& name) {
  std::string word;
  for (const char c : name + ".") {
    if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      word += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      continue;
    }
    for (const auto& [spelling, split] : kSplitNames)
      if (word == spelling) return std::string(split);
    word.clear();
  }
  return "";
}

// The splits that dataset_info.json lists.
std::vector<std::string> listed_splits(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  if (!fs::is_regular_file(folder / "dataset_info.json", error)) return names;
  try {
    const Json info = read_json(folder / "dataset_info.json");
    if (info.is_object() && info.contains("splits") && info["splits"].is_object())
      for (const auto& [name, split] : info["splits"].items()) names.push_back(name);
  } catch (const DataError&) {  // it only helps
  }
  return names;
}

}  // namespace

std::string canonical_split(std::string_view name) {
  for (const auto& [spelling, split] : kSplitNames)
    if (name == spelling) return std::string(split);
  return std::string(name);
}

std::string split_of(const fs::path& file, const fs::path& folder) {
  static const std::regex shard("(.+)-[0-9]{5}-of-[0-9]{5}(-[0-9a-f]+)?");
  std::string name = file.filename().string();
  name.resize(name.size() - io::compression_extension(name).size());
  name = fs::path(name).stem().string();
  std::error_code error;
  std::smatch match;
  const bool is_shard = std::regex_match(name, match, shard);
  const std::string base = is_shard ? match[1].str() : name;
  for (const std::string& split : listed_splits(file.parent_path()))
    if (base == split || base.ends_with("-" + split)) return canonical_split(split);
  if (const std::string split = split_in_words(base); !split.empty() && !(is_shard && base.starts_with(split + "_")))
    return split;
  if (fs::exists(file.parent_path().parent_path() / "dataset_dict.json", error))
    return canonical_split(file.parent_path().filename().string());
  for (const fs::path& part : file.parent_path().lexically_relative(folder))
    for (const auto& [spelling, split] : kSplitNames)
      if (part == spelling) return std::string(split);
  return is_shard && base != "data" ? canonical_split(base) : "";
}

std::vector<std::string> missing_shards(const std::vector<fs::path>& files) {
  static const std::regex shard("(.*[-.])([0-9]{5})-of-([0-9]{5})([-.].*)?");
  std::map<std::tuple<fs::path, std::string, std::int64_t>, std::set<std::int64_t>> found;  // folder, name, number
  for (const fs::path& file : files) {
    const std::string name = file.filename().string();
    std::smatch match;
    if (!std::regex_match(name, match, shard)) continue;
    const std::int64_t index = std::stoll(match[2].str()), count = std::stoll(match[3].str());
    if (index < count) found[{file.parent_path(), match[1].str(), count}].insert(index);
  }
  std::vector<std::string> lines;
  for (const auto& [set, indices] : found) {
    const auto& [folder, name, count] = set;
    if (std::ssize(indices) == count) continue;
    std::int64_t first = 0;
    while (indices.contains(first)) ++first;
    lines.push_back(fmt::format("{}: {} of {} shards are missing, the first is {}{:05}-of-{:05}", folder.string(),
                                count - std::ssize(indices), count, name, first, count));
  }
  return lines;
}

std::string_view dataset_record(const fs::path& file) {
  const std::string name = file.filename().string();
  std::error_code error;
  const auto beside = [&](const char* other) { return fs::exists(file.parent_path() / other, error); };
  if (name == "dataset_info.json" || name == "dataset_infos.json" || name == "dataset_dict.json" ||
      (name == "state.json" && beside("dataset_info.json")))
    return "description of a data set";
  if (name.starts_with("cache-") && file.extension() == ".arrow" &&
      (beside("dataset_info.json") || beside("state.json")))
    return "cache of datasets";
  return "";
}

}  // namespace adept::data
