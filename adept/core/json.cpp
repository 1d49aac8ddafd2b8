#include "adept/core/json.h"

#include <limits>
#include <set>
#include <type_traits>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"

namespace adept {
namespace {

constexpr std::size_t kMaxShownKey = 200;
constexpr std::size_t kMaxShownFault = 400;

std::string shortened(std::string text, std::size_t limit) {
  if (text.size() > limit) text = text.substr(0, limit) + "...";
  return text;
}

template <typename Document>
Document parse(std::string_view text, const std::string& where) {
  constexpr std::size_t kMaxKeys =
      std::is_same_v<Document, Json> ? kMaxJsonKeys : std::numeric_limits<std::size_t>::max();
  std::vector<std::set<std::string>> keys;
  const auto on_event = [&](int depth, nlohmann::detail::parse_event_t event, Document& value) {
    using Event = nlohmann::detail::parse_event_t;
    if (depth > kMaxJsonDepth)
      throw DataError("{}: nested deeper than {} levels; no such file is expected here.", where, kMaxJsonDepth);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.template get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        throw DataError("{}: the key \"{}\" appears twice in one object; remove one.", where,
                        shortened(key, kMaxShownKey));
      if (keys.back().size() > kMaxKeys)
        throw DataError("{}: an object has more than {} keys; no such file is expected here.", where, kMaxKeys);
    }
    return true;
  };
  // The parser takes a NUL for the end of the text, and so would ignore all that follows.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw DataError("{}: not valid JSON: a NUL at byte {}.", where, nul);
  try {
    return Document::parse(text.begin(), text.end(), on_event);
  } catch (const nlohmann::json::exception& error) {
    std::string what = error.what();
    if (const auto start = what.find("parse error"); start != std::string::npos) what = what.substr(start);
    throw DataError("{}: not valid JSON: {}.", where, shortened(what, kMaxShownFault));
  }
}

std::string read_text(const std::filesystem::path& path) {
  std::string text = read_all(open_for_reading(path), path, static_cast<std::size_t>(kMaxJsonBytes));
  if (static_cast<std::int64_t>(text.size()) > kMaxJsonBytes)
    throw DataError("{}: larger than {} bytes; no such JSON file is expected here.", path.string(), kMaxJsonBytes);
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where); }

SortedJson parse_sorted_json(std::string_view text, const std::string& where) { return parse<SortedJson>(text, where); }

Json read_json(const std::filesystem::path& path) { return parse_json(read_text(path), path.string()); }

SortedJson read_sorted_json(const std::filesystem::path& path) {
  return parse_sorted_json(read_text(path), path.string());
}

}  // namespace adept
