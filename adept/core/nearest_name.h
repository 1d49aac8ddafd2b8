// "Did you mean ...?"
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace adept {

/// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b` (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate with the smallest edit distance to `name`, the first of equals; empty if none is close enough to be a
/// likely typo (a third of the longer name, at least one).
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

}  // namespace adept
