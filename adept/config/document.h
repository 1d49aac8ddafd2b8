// A YAML document as a tree with the origin of each value: file and line, or the --set that gave it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace adept::config {

/// The origin of a key or value.
struct Location {
  std::string source;  ///< file name, or "--set key=value"
  int line = 0;        ///< from 1; 0 = the source as a whole
  bool is_override = false;
};

/// "run.yaml:3", "run.yaml" or "--set seed=x".
std::string to_string(const Location& location);

/// One problem of the configuration.
struct Problem {
  Location location;
  std::string key;  ///< dotted; empty for the document as a whole
  std::string text;
};

/// The most problems that one message lists.
inline constexpr std::size_t kMostProblems = 50;

/// Throws one ConfigError that lists the problems (first those of the file, then of the overrides) and counts the rest;
/// returns if there are none.
void throw_if_any(std::vector<Problem> problems);

/// What a plain scalar means to a YAML reader. Quoted scalars are strings.
enum class ScalarType { kNull, kBool, kInteger, kNumber, kString };
ScalarType scalar_type(std::string_view plain);

struct Entry;

struct Value {
  enum class Kind { kNull, kScalar, kList, kSection };

  Kind kind = Kind::kNull;
  Location location;
  std::string text;            ///< of a scalar
  bool quoted = false;         ///< a scalar in quotes or with the tag !!str
  std::vector<Value> items;    ///< of a list
  std::vector<Entry> entries;  ///< of a section, in order, keys distinct

  /// The value of the key, or nullptr.
  Value* find(std::string_view key);
  const Value* find(std::string_view key) const { return const_cast<Value*>(this)->find(key); }
  /// Description for messages: `"fast"`, `2.5`, `the string "4"`, `a list`, `a section`, `nothing`.
  std::string describe() const;
};

struct Entry {
  std::string key;
  Location location;
  Value value;
};

/// User text for a message: in quotes, control characters escaped, cut at 80 bytes.
std::string quote(std::string_view text);

/// Reads a configuration file. Throws ConfigError if it cannot be read, is a directory, or is larger than 1 MiB.
std::string read_config_file(const std::string& path);

/// Parses one document whose top level is a section. Anchors, aliases and merge keys (<<) are expanded. Duplicate keys
/// and keys that are not scalars go to `problems`. Throws ConfigError if the text is not YAML, not UTF-8, empty, more
/// than one document, nested deeper than 32 levels, or expands to more than 100,000 values.
Value parse_document(const std::string& text, const std::string& file, std::vector<Problem>& problems);

/// Sets one value: "a.b.0.c=value"; numbers index lists, and the index after the last appends. A value that starts with
/// [ { " or ' is parsed as YAML; any other is one plain scalar (for a list, items separated by commas).
void apply_override(Value& document, const std::string& override, std::vector<Problem>& problems);

/// The value at a dotted key, or nullptr.
Value* find_value(Value& document, std::string_view key);

/// Unsets keys of the file that an override excludes (schema.h): the command line takes precedence.
void unset_excluded(Value& document, const std::vector<std::string>& overrides);

}  // namespace adept::config
