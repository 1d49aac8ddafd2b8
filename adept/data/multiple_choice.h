// Multiple-choice questions as running text.
#pragma once

#include <string>
#include <string_view>

namespace adept::data {

/// A record as text, or what is wrong with it; neither where it is no such question.
struct MultipleChoice {
  std::string text;
  std::string problem;  ///< what was found: "a question whose answer \"E\" is none of its 4 choices"
};

/// A JSON record with `question`, `choices` and `answer` as a document: the question, a line "A. ..." for each choice,
/// and "Answer: B", as lm-evaluation-harness words MMLU's questions.
///
/// Spellings that are read: `choices` or `options`, a list, an object {label: text}, or {"text": [...], "label":
/// [...]} (ARC); the answer in `answer_idx`, `answerKey` or `answer`, as an index from 0, a label, or a choice's text.
MultipleChoice render_multiple_choice(std::string_view record);

}  // namespace adept::data
