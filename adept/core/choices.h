// Enums with spelled values: one table per enum serves YAML, --set, options and help.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace adept {

template <typename Enum>
struct Choice {
  Enum value;
  std::string_view name;
};

/// All choices of an enum, in the order of the help. Specialized next to each enum.
template <typename Enum>
inline constexpr std::array<Choice<Enum>, 0> kChoices{};

/// Maps alternative spellings to the name in kChoices, for enums that accept some.
template <typename Enum>
std::string_view canonical_spelling(std::string_view name) {
  return name;
}

/// The spelling of a choice.
template <typename Enum>
std::string_view to_string(Enum value) {
  for (const auto& choice : kChoices<Enum>)
    if (choice.value == value) return choice.name;
  return "?";
}

/// The choice named `name`; nothing if it is unknown.
template <typename Enum>
std::optional<Enum> from_string(std::string_view name) {
  for (const auto& choice : kChoices<Enum>)
    if (choice.name == canonical_spelling<Enum>(name)) return choice.value;
  return std::nullopt;
}

/// All spellings: "constant|linear|cosine|wsd", or with ", " and " or ": "constant, linear, cosine or wsd".
template <typename Enum>
std::string choices_of(std::string_view separator = "|", std::string_view last_separator = "|") {
  std::string all;
  for (const auto& choice : kChoices<Enum>) {
    const bool last = choice.value == kChoices<Enum>.back().value;
    all.append(all.empty() ? std::string_view() : last ? last_separator : separator).append(choice.name);
  }
  return all;
}

}  // namespace adept
