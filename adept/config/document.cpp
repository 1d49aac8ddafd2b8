#include "adept/config/document.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <span>
#include <sstream>
#include <unordered_map>

#include "adept/config/schema.h"
#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/json.h"
#include "adept/core/text_encoding.h"

namespace adept::config {
namespace {

constexpr std::size_t kMaxFileBytes = 1 << 20;
constexpr int kMaxDepth = 32;
constexpr int kMaxValues = 100'000;

bool is_one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Skips digits and, after the first, underscores; returns whether there was a digit.
bool skip_digits(std::string_view& text) {
  if (text.empty() || !is_digit(text.front())) return false;
  while (!text.empty() && (is_digit(text.front()) || text.front() == '_')) text.remove_prefix(1);
  return true;
}

bool is_utf8(std::string_view text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

[[noreturn]] void fail(const Location& location, const std::string& text) {
  throw ConfigError("{}: {}", to_string(location), text);
}

std::string line_of(const std::string& text, int line) {
  std::istringstream lines(text);
  std::string content;
  for (int i = 0; i < line; ++i) std::getline(lines, content);
  return content;
}

/// Converts yaml-cpp's tree to Value.
class Converter {
 public:
  Converter(Location source, std::vector<Problem>& problems) : source_(std::move(source)), problems_(problems) {}

  /// `location` is that of the value's key, because aliases and empty values have none.
  Value convert(const YAML::Node& node, const Location& location, const std::string& path, int depth) {
    Value value;
    value.location = location;
    if (depth > kMaxDepth) fail(value.location, fmt::format("nested deeper than {} levels", kMaxDepth));
    if (++num_values_ > kMaxValues)
      fail(value.location, fmt::format("expands to more than {} values; expected fewer aliases", kMaxValues));
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        convert_scalar(node, value);
        break;
      case YAML::NodeType::Sequence:
        value.kind = Value::Kind::kList;
        for (const YAML::Node& item : node) {
          const Location place = item.IsNull() ? location : at(item, location);
          value.items.push_back(convert(item, place, join(path, std::to_string(value.items.size())), depth + 1));
        }
        break;
      case YAML::NodeType::Map:
        convert_section(node, value, path, depth);
        break;
    }
    return value;
  }

 private:
  static std::string join(const std::string& path, const std::string& key) {
    return path.empty() ? key : path + "." + key;
  }

  Location at(const YAML::Node& node, const Location& parent) const {
    if (source_.is_override || node.Mark().is_null()) return parent;
    Location location = source_;
    location.line = node.Mark().line + 1;
    return location;
  }

  void convert_scalar(const YAML::Node& node, Value& value) {
    value.text = node.Scalar();
    value.quoted = is_one_of(node.Tag(), {"!", "tag:yaml.org,2002:str"});
    const bool is_null = !value.quoted && scalar_type(value.text) == ScalarType::kNull;
    value.kind = is_null ? Value::Kind::kNull : Value::Kind::kScalar;
  }

  void convert_section(const YAML::Node& node, Value& value, const std::string& path, int depth) {
    value.kind = Value::Kind::kSection;
    std::vector<Entry> merged;
    std::unordered_map<std::string, int> first_lines;
    for (const auto& pair : node) {
      const Location location = at(pair.first, value.location);
      if (!pair.first.IsScalar()) {
        problems_.push_back({location, path, "found a key that is not a scalar; expected KEY: VALUE"});
        continue;
      }
      const std::string key = pair.first.Scalar();
      Value member = convert(pair.second, location, join(path, key), depth + 1);
      if (key == "<<" && pair.first.Tag() != "!") {
        merge(std::move(member), path, merged);
      } else if (const auto [use, is_new] = first_lines.try_emplace(key, member.location.line); !is_new) {
        const std::string first = fmt::format(" (first: line {})", use->second);
        problems_.push_back(
            {location, join(path, key),
             fmt::format("found a duplicate key; expected it once{}", source_.is_override ? "" : first)});
      } else {
        value.entries.push_back({key, location, std::move(member)});
      }
    }
    for (Entry& entry : merged)  // the section's own keys override
      if (first_lines.try_emplace(entry.key, entry.location.line).second) value.entries.push_back(std::move(entry));
  }

  void merge(Value member, const std::string& path, std::vector<Entry>& merged) {
    if (member.kind == Value::Kind::kList) {
      for (Value& item : member.items) merge(std::move(item), path, merged);
    } else if (member.kind == Value::Kind::kSection) {
      std::move(member.entries.begin(), member.entries.end(), std::back_inserter(merged));
    } else {
      problems_.push_back({member.location, join(path, "<<"),
                           fmt::format("found {}; expected an alias of a section", member.describe())});
    }
  }

  Location source_;
  std::vector<Problem>& problems_;
  int num_values_ = 0;
};

struct IgnoreEvents : YAML::EventHandler {
  using Mark = YAML::Mark;
  using Tag = std::string;
  using Anchor = YAML::anchor_t;
  using Style = YAML::EmitterStyle::value;
  void OnDocumentStart(const Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const Mark&, Anchor) override {}
  void OnAlias(const Mark&, Anchor) override {}
  void OnScalar(const Mark&, const Tag&, Anchor, const std::string&) override {}
  void OnSequenceStart(const Mark&, const Tag&, Anchor, Style) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const Mark&, const Tag&, Anchor, Style) override {}
  void OnMapEnd() override {}
};

/// Not YAML::LoadAll: yaml-cpp 0.7 finds endless empty documents if a text starts with a comma.
bool has_several_documents(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  IgnoreEvents ignore;
  return parser.HandleNextDocument(ignore) && parser.HandleNextDocument(ignore);
}

/// The one document of the text; null if it is empty.
YAML::Node load_yaml(const std::string& text, const Location& source) {
  // yaml-cpp lets the end of the text close a quoted string, but not the end of a document.
  const std::string ended = text + "\n...\n";
  try {
    YAML::Node document = YAML::Load(ended);
    if (!has_several_documents(ended)) return document;
  } catch (const YAML::Exception& error) {
    Location location = source;
    if (!source.is_override && !error.mark.is_null()) location.line = error.mark.line + 1;
    const std::string line = source.is_override ? "" : line_of(text, location.line);
    if (line.substr(0, line.find_first_not_of(" \t")).find('\t') != std::string::npos)
      fail(location, "found a tab in the indentation; expected spaces");
    if (error.msg == YAML::ErrorMsg::DOC_IN_SCALAR)
      fail(location, "not valid YAML: the text ends inside quotes; expected the closing quote");
    fail(location, fmt::format("not valid YAML: {} (column {})", error.msg, error.mark.column + 1));
  }
  fail(source, "found a second YAML document; expected only one");
}

bool parse_index(std::string_view text, std::size_t& index) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  return error == std::errc() && end == text.data() + text.size();
}

Value parse_override_value(const std::string& text, const std::string& key, const Location& location,
                           std::vector<Problem>& problems) {
  const bool is_yaml = !text.empty() && std::string_view("[{\"'").find(text.front()) != std::string_view::npos;
  if (is_yaml) {
    return Converter(location, problems).convert(load_yaml(text, location), location, key, 0);
  }
  Value value;
  value.location = location;
  value.text = text;
  value.kind = scalar_type(text) == ScalarType::kNull ? Value::Kind::kNull : Value::Kind::kScalar;
  return value;
}

Value null_at(const Location& location) {
  Value value;
  value.location = location;
  return value;
}

/// The child `key` of `parent`, created if missing; nullptr if that is impossible.
Value* descend(Value& parent, const std::string& key, const Location& location, std::string& why_not) {
  std::size_t index = 0;
  const bool is_index = parse_index(key, index);
  if (parent.kind == Value::Kind::kNull) parent.kind = is_index ? Value::Kind::kList : Value::Kind::kSection;
  if (parent.kind == Value::Kind::kSection) {
    if (Value* child = parent.find(key)) return child;
    return &parent.entries.emplace_back(Entry{key, location, null_at(location)}).value;
  }
  if (parent.kind == Value::Kind::kScalar) {
    why_not = fmt::format("found {} there; expected a section or a list", parent.describe());
    return nullptr;
  }
  if (!is_index || index > parent.items.size()) {
    why_not = fmt::format("found the index {} of a list of {}; expected 0 to {}, where {} appends", quote(key),
                          parent.items.size(), parent.items.size(), parent.items.size());
    return nullptr;
  }
  if (index == parent.items.size()) parent.items.push_back(null_at(location));
  return &parent.items[index];
}

}  // namespace

std::string to_string(const Location& location) {
  return location.line > 0 ? fmt::format("{}:{}", location.source, location.line) : location.source;
}

void throw_if_any(std::vector<Problem> problems) {
  if (problems.empty()) return;
  std::stable_sort(problems.begin(), problems.end(), [](const Problem& a, const Problem& b) {
    return std::pair(a.location.is_override, a.location.line) < std::pair(b.location.is_override, b.location.line);
  });
  const std::size_t shown = std::min(problems.size(), kMostProblems);
  std::string message;
  for (const Problem& problem : std::span(problems).first(shown))
    message += fmt::format("{}{}: {}{}{}", message.empty() ? "" : "\n", to_string(problem.location), problem.key,
                           problem.key.empty() ? "" : ": ", problem.text);
  if (shown < problems.size()) message += fmt::format("\nand {} more problems", problems.size() - shown);
  throw ConfigError(message);
}

ScalarType scalar_type(std::string_view plain) {
  if (is_one_of(plain, {"", "~", "null", "Null", "NULL"})) return ScalarType::kNull;
  if (is_one_of(plain, {"true", "True", "TRUE", "false", "False", "FALSE", "yes", "Yes", "YES", "no", "No", "NO", "on",
                        "On", "ON", "off", "Off", "OFF"}))
    return ScalarType::kBool;
  if (plain.front() == '+' || plain.front() == '-') plain.remove_prefix(1);
  if (is_one_of(plain, {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN", "inf", "nan"})) return ScalarType::kNumber;
  const bool whole = skip_digits(plain);
  if (whole && plain.empty()) return ScalarType::kInteger;
  bool fraction = false;
  if (!plain.empty() && plain.front() == '.') {
    plain.remove_prefix(1);
    fraction = skip_digits(plain);
  }
  if (!whole && !fraction) return ScalarType::kString;
  if (!plain.empty() && (plain.front() == 'e' || plain.front() == 'E')) {
    plain.remove_prefix(1);
    if (!plain.empty() && (plain.front() == '+' || plain.front() == '-')) plain.remove_prefix(1);
    if (!skip_digits(plain)) return ScalarType::kString;
  }
  return plain.empty() ? ScalarType::kNumber : ScalarType::kString;
}

Value* Value::find(std::string_view key) {
  for (Entry& entry : entries)
    if (entry.key == key) return &entry.value;
  return nullptr;
}

std::string Value::describe() const {
  switch (kind) {
    case Kind::kNull:
      return "nothing";
    case Kind::kList:
      return "a list";
    case Kind::kSection:
      return "a section";
    case Kind::kScalar:
      break;
  }
  if (quoted) return "the string " + quote(text);
  return scalar_type(text) == ScalarType::kString ? quote(text) : text;
}

std::string quote(std::string_view text) {
  constexpr std::size_t kShown = 80;
  const std::string shown = Json(text.substr(0, kShown)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return text.size() > kShown ? shown + "..." : shown;
}

std::string read_config_file(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error))
    throw ConfigError("{}: found a directory; expected a YAML file", path);
  std::string text;
  try {
    text = read_all(open_stream(path), path, kMaxFileBytes);  // also a pipe: adept run <(make-config)
  } catch (const DataError& failure) {
    throw ConfigError(failure.what());
  }
  if (text.size() > kMaxFileBytes) throw ConfigError("{}: found more than 1 MiB; expected a run configuration", path);
  return text;
}

Value parse_document(const std::string& text, const std::string& file, std::vector<Problem>& problems) {
  const Location source{.source = file};
  if (const std::string problem = foreign_encoding_problem(text); !problem.empty()) fail(source, problem);
  if (!is_utf8(text)) {
    Location location{.source = file, .line = 1};
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line) && is_utf8(line);) ++location.line;
    fail(location, "found bytes that are not UTF-8; expected a YAML file in UTF-8");
  }
  const YAML::Node root = load_yaml(text, source);
  if (root.IsNull()) fail(source, "found an empty file; expected at least model, output_dir and data");
  Value document = Converter(source, problems).convert(root, source, "", 0);
  if (document.kind != Value::Kind::kSection)
    fail({.source = file, .line = root.Mark().line + 1},
         fmt::format("found {}; expected KEY: VALUE lines", document.describe()));
  return document;
}

void apply_override(Value& document, const std::string& override, std::vector<Problem>& problems) {
  const Location location{.source = "--set " + override, .is_override = true};
  const auto equals = override.find('=');
  const std::string path = override.substr(0, equals);
  if (equals == std::string::npos || path.empty()) {
    problems.push_back({location, "", "expected KEY=VALUE, as in --set train.learning_rate=1e-4"});
    return;
  }
  if (equals + 1 == override.size()) {
    problems.push_back({location, path, "found no value; expected KEY=VALUE (null unsets a key)"});
    return;
  }
  std::vector<std::string> keys;
  std::istringstream parts(path + ".");
  for (std::string key; std::getline(parts, key, '.');) keys.push_back(key);
  std::string why_not;
  if (std::find(keys.begin(), keys.end(), "") != keys.end())
    why_not = "found an empty part; expected names separated by single dots";
  Value* place = &document;
  for (std::size_t i = 0; i < keys.size() && why_not.empty(); ++i) place = descend(*place, keys[i], location, why_not);
  if (why_not.empty())
    *place = parse_override_value(override.substr(equals + 1), path, location, problems);
  else
    problems.push_back({location, path, why_not});
}

Value* find_value(Value& document, std::string_view key) {
  Value* value = &document;
  for (std::size_t begin = 0; value != nullptr && begin <= key.size();) {
    const std::size_t end = std::min(key.find('.', begin), key.size());
    value = value->find(key.substr(begin, end - begin));
    begin = end + 1;
  }
  return value;
}

void unset_excluded(Value& document, const std::vector<std::string>& overrides) {
  const auto is_overridden = [&](std::string_view key) {
    return std::any_of(overrides.begin(), overrides.end(), [&](const std::string& override) {
      return override.starts_with(key) && override.size() > key.size() &&
             (override[key.size()] == '=' || override[key.size()] == '.');
    });
  };
  for (const auto& [key, others] : kExclusions) {  // keys of one section
    const Value* value = find_value(document, key);
    const bool is_set = value != nullptr && value->kind != Value::Kind::kNull &&
                        !(value->kind == Value::Kind::kList && value->items.empty());
    if (!is_set || !is_overridden(key)) continue;
    std::istringstream words{std::string(others)};
    for (std::string word; words >> word;) {
      const auto equals = std::min(word.find('='), word.size()), dot = word.rfind('.', equals);
      Value* section = find_value(document, std::string_view(word).substr(0, dot));
      std::erase_if(section->entries, [&](const Entry& entry) {
        return !entry.value.location.is_override && entry.key == word.substr(dot + 1, equals - dot - 1) &&
               (equals == word.size() || entry.value.text == word.substr(equals + 1));
      });
    }
  }
}

}  // namespace adept::config
