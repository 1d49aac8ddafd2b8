// Jinja templates, rendered as jinja2's sandbox renders a chat template in transformers: trim_blocks, lstrip_blocks,
// the functions raise_exception and strftime_now, tojson without escapes of HTML, {% break %}, {% continue %} and {%
// generation %}. The engine is llama.cpp's. It rejects features of jinja2 that it lacks, with these exceptions: upper,
// lower, title and capitalize change ASCII letters only; length, index and slice of a string count bytes; an undefined
// value has undefined members; None prints nothing, and a list its items; a string + another type concatenates;
// default() also replaces None; lists have append(); a keyword argument that skips an earlier default of a macro loses
// that default.
#pragma once

#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "adept/core/json.h"

namespace adept::data {

/// The reason why a template produced no text.
struct JinjaError : std::runtime_error {
  JinjaError(const std::string& message, int where, bool is_refusal)
      : std::runtime_error(message), line(where), refused(is_refusal) {}
  int line;      ///< of the template, from 1; 0 if unknown
  bool refused;  ///< the template itself called raise_exception
};

/// Renders `source` with the members of the object `variables`; strftime_now gives the time now. Throws JinjaError,
/// also for unbounded nesting, recursion, loops or output.
std::string render_jinja(const std::string& source, const Json& variables);

/// The text, or the error of one of several renderings.
struct JinjaResult {
  std::string text{};
  std::optional<JinjaError> error{};
};

/// What {% generation %} and {% endgeneration %} do.
enum class GenerationBlocks {
  kIgnored,
  kMarked,  ///< the bytes below, which no variable contains
};
inline constexpr char kGenerationBegin = '\xFE', kGenerationEnd = '\xFF';

/// The same for each of several objects, in one child process, as text that is kept: strftime_now always gives noon of
/// 26 July 2024 (UTC), the date that Llama 3.1's template has by default, so that the same messages give the same text
/// on every day.
std::vector<JinjaResult> render_jinja_each(const std::string& source, std::span<const Json> variables,
                                           GenerationBlocks blocks = GenerationBlocks::kIgnored);

}  // namespace adept::data
