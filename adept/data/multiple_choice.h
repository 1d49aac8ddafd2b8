// Multiple-choice questions as running text.
#pragma once

#include <string>
#include <string_view>

#include "adept/core/json.h"

namespace adept::data {

/// A record as text, or its problem; neither if it is not a multiple-choice question.
struct MultipleChoice {
  std::string text;
  std::string problem;  ///< what was found: "a question whose answer \"E\" is not among its 4 choices"
};

/// The keys that render_multiple_choice() reads.
inline constexpr std::string_view kMultipleChoiceKeys[] = {"question",   "choices",   "options",
                                                           "answer_idx", "answerKey", "answer"};

/// A record with `question`, `choices` and `answer` as a document: the question, a line "A. ..." for each choice,
/// and "Answer: B", as in lm-evaluation-harness for MMLU.
///
/// Accepted forms: `choices` or `options`, a list, an object {label: text}, or {"text": [...], "label": [...]} (ARC);
/// the answer in `answer_idx`, `answerKey` or `answer`, as an index from 0, a label, or a choice's text.
MultipleChoice render_multiple_choice(const Json& record);

}  // namespace adept::data
