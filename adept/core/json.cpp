#include "adept/core/json.h"

#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "adept/core/error.h"

namespace adept {
namespace {

constexpr int kMaxDepth = 256;

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  std::vector<std::set<std::string>> keys;
  const auto on_event = [&](int depth, nlohmann::detail::parse_event_t event, Json& value) {
    using Event = nlohmann::detail::parse_event_t;
    if (depth > kMaxDepth)
      throw DataError("{}: nested deeper than {} levels; no such file is expected here.", where, kMaxDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second)
      throw DataError("{}: the key \"{}\" appears twice in one object; remove one.", where, value.get<std::string>());
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), on_event);
  } catch (const Json::exception& error) {
    std::string what = error.what();
    const auto start = what.find("parse error");
    throw DataError("{}: not valid JSON: {}.", where, start == std::string::npos ? what : what.substr(start));
  }
}

Json read_json(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw DataError("{}: cannot be opened; expected a JSON file.", path.string());
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (stream.bad()) throw DataError("{}: cannot be read.", path.string());
  return parse_json(text, path.string());
}

}  // namespace adept
