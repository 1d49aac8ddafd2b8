// Multiple-choice questions as running text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace adept::data {

/// A JSON record with `question`, `choices` and `answer` as a document: the question, a line "A. ..." for each choice,
/// and "Answer: B", as lm-evaluation-harness words MMLU's questions. Nothing for any other record.
///
/// Spellings that are read: `choices` or `options`, a list, an object {label: text}, or {"text": [...], "label":
/// [...]} (ARC); the answer in `answer_idx`, `answerKey` or `answer`, as an index from 0, a label, or a choice's text.
std::optional<std::string> render_multiple_choice(std::string_view record);

}  // namespace adept::data
