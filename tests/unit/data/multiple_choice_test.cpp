#include "adept/data/multiple_choice.h"

#include <gtest/gtest.h>

namespace adept::data {
namespace {

constexpr char kText[] = "Which is a planet?\nA. Sun\nB. Mars\nC. Moon\nAnswer: B";

TEST(MultipleChoice, IsWordedAsInMmluWhateverTheSpelling) {
  for (const char* record :
       {R"({"question": "Which is a planet?", "choices": ["Sun", "Mars", "Moon"], "answer": 1, "subject": "x"})",
        R"({"question": " Which is a planet?\n", "choices": ["Sun", "Mars", "Moon"], "answer": "B"})",
        R"({"question": "Which is a planet?", "choices": ["Sun", "Mars", "Moon"], "answer": "Mars"})",
        R"({"question": "Which is a planet?", "choices": {"text": ["Sun", "Mars", "Moon"], "label": ["1", "2", "3"]},
               "answerKey": "2"})",
        R"({"question": "Which is a planet?", "options": {"A": "Sun", "B": "Mars", "C": "Moon"}, "answer": "Mars",
               "answer_idx": "B"})"})
    EXPECT_EQ(render_multiple_choice(record), kText) << record;
}

TEST(MultipleChoice, IsNothingElse) {
  for (const char* record :
       {R"({"question": "How many?", "answer": "72"})", R"({"text": "a"})", R"([1])", "not json",
        R"({"question": "Q", "choices": ["a", "b"], "answer": 2})",
        R"({"question": "Q", "choices": ["a"], "answer": -1})",
        R"({"question": "Q", "choices": ["a", 2], "answer": 0})", R"({"question": 1, "choices": ["a"], "answer": 0})",
        R"({"question": "Q", "choices": {"text": ["a"], "label": []}, "answer": "a"})",
        R"({"question": "Q", "choices": [], "answer": 0})", R"({"question": "Q", "choices": ["a"], "answer": null})"})
    EXPECT_FALSE(render_multiple_choice(record)) << record;
}

}  // namespace
}  // namespace adept::data
