#include "adept/core/json.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/signals.h"
#include "adept/core/text_encoding.h"

namespace adept {
namespace {

constexpr std::size_t kMaxShownKey = 200;
constexpr std::size_t kMaxShownFault = 400;
constexpr std::string_view kAdviceOnFile = " The file is damaged: correct it, or copy or download it again.";

std::string shortened(std::string text, std::size_t limit) {
  if (text.size() > limit) text = text.substr(0, limit) + "...";
  return text;
}

/// Builds a document from the parser's events. The library's own callback interface removes rejected values in a pass
/// over each finished array and object, which is quadratic.
template <typename Document>
class Builder : public nlohmann::json_sax<Document> {
  using Base = nlohmann::json_sax<Document>;
  static constexpr bool kKeepsOrder = std::is_same_v<Document, Json>;

 public:
  Builder(const std::string& where, std::size_t max_keys, std::string_view advice)
      : where_(where), max_keys_(max_keys), advice_(advice) {}

  Document root;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(typename Base::number_integer_t value) override { return add(value); }
  bool number_unsigned(typename Base::number_unsigned_t value) override { return add(value); }
  bool number_float(typename Base::number_float_t value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(typename Base::binary_t&) override { return add(nullptr); }
  bool start_object(std::size_t) override { return enter(Document::value_t::object); }
  bool start_array(std::size_t) override { return enter(Document::value_t::array); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }

  bool key(std::string& name) override {
    Frame& frame = open_.back();
    auto& object = frame.value->template get_ref<typename Document::object_t&>();
    if (object.size() >= max_keys_)
      throw DataError("{}: an object has more than {} keys, the limit for a file of this kind.", where_, max_keys_);
    if (!is_new(frame, object, name))
      throw DataError("{}: the key \"{}\" appears twice in one object; remove one.", where_,
                      shortened(name, kMaxShownKey));
    if constexpr (kKeepsOrder) {
      object.emplace_back(std::move(name), nullptr);
      frame.member = &object.back().second;
    } else {
      frame.member = &object.emplace(std::move(name), nullptr).first->second;
    }
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    throw DataError("{}: not valid JSON: {}.{}", where_, shortened(json_problem(error), kMaxShownFault), advice_);
  }

 private:
  static constexpr std::size_t kFewKeys = 16;
  static constexpr std::size_t kValuesBetweenLooks = 65536;  // for a signal

  struct Frame {
    Document* value;
    Document* member = nullptr;  // where the next value goes, in an object
    std::unordered_set<std::string> keys{};
  };

  static bool is_new(Frame& frame, const typename Document::object_t& object, const std::string& name) {
    if constexpr (kKeepsOrder) {
      const auto has_name = [&](const auto& entry) { return entry.first == name; };
      if (object.size() < kFewKeys) return std::none_of(object.begin(), object.end(), has_name);
      if (frame.keys.empty())
        for (const auto& entry : object) frame.keys.insert(entry.first);
      return frame.keys.insert(name).second;
    } else {
      return !object.contains(name);
    }
  }

  template <typename Value>
  bool add(Value&& value) {
    place(std::forward<Value>(value));
    return true;
  }

  template <typename Value>
  Document* place(Value&& value) {
    if (++num_values_ % kValuesBetweenLooks == 0) throw_if_interrupted();
    if (open_.empty()) {
      root = std::forward<Value>(value);
      return &root;
    }
    Frame& frame = open_.back();
    if (frame.value->is_array()) return &frame.value->emplace_back(std::forward<Value>(value));
    *frame.member = std::forward<Value>(value);
    return frame.member;
  }

  bool enter(typename Document::value_t type) {
    if (static_cast<int>(open_.size()) >= kMaxJsonDepth)
      throw DataError("{}: nested deeper than {} levels, the limit for a file of this kind.", where_, kMaxJsonDepth);
    open_.push_back({.value = place(Document(type))});
    return true;
  }

  bool leave() {
    open_.pop_back();
    return true;
  }

  const std::string& where_;
  std::size_t max_keys_;
  std::string_view advice_;
  std::size_t num_values_ = 0;
  std::vector<Frame> open_;  // a container does not grow while one inside it is open, so the pointers stay valid
};

template <typename Document>
Document parse(std::string_view text, const std::string& where, std::size_t max_keys, std::string_view advice) {
  if (const std::string problem = foreign_encoding_problem(text); !problem.empty())
    throw DataError("{}: {}", where, problem);
  // The parser treats a NUL as the end of the text and would ignore everything after it.
  if (const auto nul = text.find('\0'); nul != std::string_view::npos)
    throw DataError("{}: not valid JSON: a NUL at byte {}.{}", where, nul, advice);
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
    throw DataError("{}: not valid JSON: it is empty.{}", where, advice);
  Builder<Document> builder(where, max_keys, advice);
  Document::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

std::string read_text(const std::filesystem::path& path) {
  std::string text = read_all(open_for_reading(path), path, static_cast<std::size_t>(kMaxJsonBytes));
  if (static_cast<std::int64_t>(text.size()) > kMaxJsonBytes)
    throw DataError("{}: larger than {} bytes, the limit for a JSON file of this kind.", path.string(), kMaxJsonBytes);
  return text;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) { return parse<Json>(text, where, kMaxJsonKeys, ""); }

SortedJson parse_sorted_json(std::string_view text, const std::string& where) {
  return parse<SortedJson>(text, where, std::numeric_limits<std::size_t>::max(), kAdviceOnFile);
}

Json read_json(const std::filesystem::path& path, std::size_t max_keys) {
  return parse<Json>(read_text(path), path.string(), max_keys, kAdviceOnFile);
}

SortedJson read_sorted_json(const std::filesystem::path& path) {
  return parse_sorted_json(read_text(path), path.string());
}

// "[json.exception.parse_error.101] parse error at line 2, column 1: syntax error while parsing object - unexpected
// end of input; expected '}'", or "... - invalid literal; last read: 'tru,'"
std::string json_problem(const std::exception& error) {
  std::string_view what = error.what();
  const auto skip = [&](std::string_view start, std::string_view end) {
    if (const auto at = what.find(end); what.starts_with(start) && at != std::string_view::npos)
      what.remove_prefix(at + end.size());
  };
  skip("[", "] ");
  skip("parse error", " at ");
  const auto colon = what.find(": ");
  if (!what.starts_with("line ") || colon == std::string_view::npos) return std::string(what);
  const std::string_view place = what.substr(0, colon + 2);
  what.remove_prefix(place.size());
  skip("syntax error while parsing", " - ");
  std::string problem(what);
  const auto replace = [&](std::string_view old, std::string_view text) {
    if (const auto at = problem.find(old); at != std::string::npos) problem.replace(at, old.size(), text);
  };
  if (what.starts_with("invalid literal") && what.find("expected") == std::string_view::npos)
    problem += "; expected a JSON value";
  replace("invalid literal; last read: ", "found ");
  replace("; last read: ", " in ");
  replace("unexpected end of input", "found the end of input");
  replace("unexpected ", "found ");
  return std::string(place) + problem;
}

std::string brief(const Json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

}  // namespace adept
