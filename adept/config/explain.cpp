#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <sstream>

#include "adept/config/reader.h"
#include "adept/config/types.h"
#include "adept/config/yaml_writer.h"
#include "adept/core/error.h"
#include "adept/core/nearest_name.h"

namespace adept::config {
namespace {

constexpr std::size_t kDefaultWidth = 12;
constexpr std::size_t kLeastMeaning = 20;

/// Collects the keys of a section whose members have their defaults.
class KeyLister {
 public:
  KeyLister(std::string prefix, unsigned decides, unsigned methods, std::vector<KeyDoc>& keys)
      : prefix_(std::move(prefix)), decides_(decides), methods_(methods), keys_(keys) {}

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view doc, const FieldOptions& options = {}) {
    const std::string key = prefix_ + std::string(name);
    const unsigned decides = options.decides != 0 ? options.decides : decides_;
    const unsigned methods = options.methods != 0 ? options.methods : methods_;
    if constexpr (kIsSection<T>) {
      KeyLister inner(key + ".", decides, methods, keys_);
      describe(inner, member);
    } else if constexpr (kIsSection<element_of<T>>) {
      element_of<T> element;
      KeyLister inner(key + ".N.", decides, methods, keys_);
      describe(inner, element);
    } else {
      keys_.push_back({key, type_text<T>(options), default_text(member, options), std::string(options.unit),
                       std::string(doc), decides, methods});
    }
  }

 private:
  template <typename T>
  struct ElementOf {
    using Type = int;
  };
  template <typename T>
  struct ElementOf<std::vector<T>> {
    using Type = T;
  };
  template <typename T>
  using element_of = typename ElementOf<T>::Type;

  template <typename T>
  static std::string default_text(const T& member, const FieldOptions& options) {
    if (options.required) return "required";
    if (!options.fallback.empty()) return options.fallback;
    if constexpr (kIsOptional<T>)
      if (!member) return "none";
    return yaml_scalar(encode(member));
  }

  std::string prefix_;
  unsigned decides_, methods_;  // of the section
  std::vector<KeyDoc>& keys_;
};

/// The text, cut to `width` with "..." if it is longer.
std::string cut(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 3) + "...";
}

/// "data.train.0.path" as in the table: "data.train.N.path".
std::string with_index_n(const std::string& name) {
  std::string result;
  std::istringstream parts(name);
  for (std::string part; std::getline(parts, part, '.');) {
    const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    result += (result.empty() ? "" : ".") + (is_index ? "N" : part);
  }
  return result;
}

/// Wraps words at `width`; later lines are indented to the start of the text.
std::string labelled(std::string_view label, const std::string& text, std::size_t width) {
  constexpr std::size_t indent = 11;
  std::string lines = fmt::format("  {:<9}", label);
  std::size_t column = indent;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    const bool first = column == indent;
    if (!first && column + 1 + word.size() > width) {
      lines += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (!first) {
      lines += ' ';
      ++column;
    }
    lines += word;
    column += word.size();
  }
  return lines + "\n";
}

/// "adept, llama_pro"; empty for a key of all methods.
std::string methods_text(unsigned methods) {
  if (methods == kAllMethods) return "";
  std::vector<std::string_view> names;
  for (const auto& choice : kChoices<train::Method>)
    if ((methods & bit_of(choice.value)) != 0) names.push_back(choice.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string block_of(const KeyDoc& doc, std::size_t width) {
  std::string type = doc.type;
  for (std::size_t at = 0; (at = type.find('|', at)) != std::string::npos; at += 3) type.replace(at, 1, " | ");
  return doc.key + "\n" + labelled("type", type, width) + labelled("default", doc.fallback, width) +
         (doc.unit.empty() ? "" : labelled("unit", doc.unit, width)) +
         (doc.methods == kAllMethods ? "" : labelled("methods", methods_text(doc.methods), width)) +
         labelled("meaning", doc.doc, width);
}

/// Keys and sections that the user may have meant.
std::vector<std::string> keys_like(const std::string& name) {
  constexpr std::size_t most = 5;
  std::vector<std::string> all, lasts, found;
  for (const KeyDoc& doc : all_keys()) {
    for (std::size_t dot = doc.key.find('.'); dot != std::string::npos; dot = doc.key.find('.', dot + 1))
      all.push_back(doc.key.substr(0, dot));
    all.push_back(doc.key);
    lasts.push_back(last_part(doc.key));
  }
  const auto add_with_last = [&](const std::string& last) {
    for (const KeyDoc& doc : all_keys())
      if (last_part(doc.key) == last && found.size() < most) found.push_back(doc.key);
  };
  add_with_last(last_part(name));
  if (found.empty())
    if (const std::string nearest = nearest_name(name, all); !nearest.empty()) found.push_back(nearest);
  if (found.empty())
    if (const std::string_view ours = name_of_others(last_part(name)); !ours.empty()) found.emplace_back(ours);
  if (found.empty()) add_with_last(nearest_name(last_part(name), lasts));
  return found;
}

}  // namespace

const std::vector<KeyDoc>& all_keys() {
  static const std::vector<KeyDoc> keys = [] {
    std::vector<KeyDoc> all;
    RunConfig defaults;
    KeyLister lister("", 0, kAllMethods, all);
    describe(lister, defaults);
    return all;
  }();
  return keys;
}

std::string explain(std::size_t width) {
  std::vector<KeyDoc> rows = all_keys();
  rows.insert(rows.begin(), {.key = "KEY", .type = "", .fallback = "DEFAULT", .unit = "", .doc = "MEANING"});
  std::size_t longest = 0;
  for (const KeyDoc& row : rows) longest = std::max(longest, row.key.size());
  const std::size_t used = longest + 2 + kDefaultWidth + 2;
  const std::size_t left = std::max(width, used + kLeastMeaning) - used;
  std::string table;
  for (const KeyDoc& row : rows)
    table += fmt::format("{:<{}}  {:<{}}  {}\n", row.key, longest, cut(row.fallback, kDefaultWidth), kDefaultWidth,
                         cut(row.doc, left));
  return table + "\nFor details: adept config --explain KEY, or a section such as train.\n";
}

std::string explain(std::span<const std::string> names, std::size_t width) {
  std::string text, problems;
  for (const std::string& name : names) {
    const std::string wanted = with_index_n(name);
    const std::size_t before = text.size();
    for (const KeyDoc& doc : all_keys())
      if (doc.key == wanted || doc.key.starts_with(wanted + ".") || doc.key.starts_with(wanted + ".N."))
        text += block_of(doc, width);
    if (text.size() > before) continue;
    const std::vector<std::string> meant = keys_like(wanted);
    problems += fmt::format("{}--explain {}: found an unknown key; {}", problems.empty() ? "" : "\n", name,
                            meant.empty() ? "expected a key that adept config --explain lists"
                                          : fmt::format("did you mean {}?", fmt::join(meant, " or ")));
  }
  if (!problems.empty()) throw ConfigError(problems);
  return text;
}

}  // namespace adept::config
