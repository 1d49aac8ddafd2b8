#include <fmt/format.h>

#include <algorithm>

#include "adept/config/types.h"
#include "adept/config/yaml_writer.h"

namespace adept::config {
namespace {

/// Collects the keys of a section whose members have their defaults.
class KeyLister {
 public:
  KeyLister(std::string prefix, std::vector<KeyDoc>& keys) : prefix_(std::move(prefix)), keys_(keys) {}

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view doc, const FieldOptions& options = {}) {
    const std::string key = prefix_ + std::string(name);
    if constexpr (kIsSection<T>) {
      KeyLister inner(key + ".", keys_);
      describe(inner, member);
    } else if constexpr (kIsSection<element_of<T>>) {
      element_of<T> element;
      KeyLister inner(key + ".N.", keys_);
      describe(inner, element);
    } else {
      keys_.push_back(
          {key, type_text<T>(options), default_text(member, options), std::string(options.unit), std::string(doc)});
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
    if (!options.fallback.empty()) return std::string(options.fallback);
    if constexpr (kIsOptional<T>)
      if (!member) return "none";
    return yaml_scalar(encode(member));
  }

  std::string prefix_;
  std::vector<KeyDoc>& keys_;
};

}  // namespace

std::vector<KeyDoc> all_keys() {
  std::vector<KeyDoc> keys;
  RunConfig defaults;
  KeyLister lister("", keys);
  describe(lister, defaults);
  return keys;
}

std::string explain() {
  std::vector<KeyDoc> rows = all_keys();
  rows.insert(rows.begin(), {"KEY", "TYPE", "DEFAULT", "UNIT", "MEANING"});
  std::size_t key = 0, type = 0, fallback = 0, unit = 0;
  for (KeyDoc& row : rows) {
    if (row.unit.empty()) row.unit = "-";
    key = std::max(key, row.key.size());
    type = std::max(type, row.type.size());
    fallback = std::max(fallback, row.fallback.size());
    unit = std::max(unit, row.unit.size());
  }
  std::string table;
  for (const KeyDoc& row : rows)
    table += fmt::format("{:<{}}  {:<{}}  {:<{}}  {:<{}}  {}\n", row.key, key, row.type, type, row.fallback, fallback,
                         row.unit, unit, row.doc);
  return table;
}

}  // namespace adept::config
