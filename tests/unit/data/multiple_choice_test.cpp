#include "adept/data/multiple_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace adept::data {
namespace {

MultipleChoice render(const std::string& record) { return render_multiple_choice(Json::parse(record)); }

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
    EXPECT_EQ(render(record).text, kText) << record;
}

TEST(MultipleChoice, IsNothingElse) {
  for (const char* record : {R"({"question": "How many?", "answer": "72"})", R"({"text": "a"})", R"([1])",
                             R"({"question": 1, "choices": ["a"], "answer": 0})"}) {
    EXPECT_EQ(render(record).text, "") << record;
    EXPECT_EQ(render(record).problem, "") << record;
  }
}

TEST(MultipleChoice, SaysWhatIsWrongWithAQuestion) {
  for (const auto& [record, problem] : std::vector<std::pair<const char*, const char*>>{
           {R"({"question": "Q", "choices": ["a", "b"], "answer": 2})",
            "whose answer \"2\" is not among its 2 choices"},
           {R"({"question": "Q", "choices": ["a"], "answer": -1})", "whose answer \"-1\" is not among its 1 choices"},
           {R"({"question": "Q", "choices": ["a"], "answer": null})", "whose answer \"null\" is not among"},
           {R"({"question": "Q", "choices": ["a"], "answer": "Z"})", "whose answer \"Z\" is not among"},
           {R"({"question": "Q", "choices": ["a", 2], "answer": 0})", "without readable choices"},
           {R"({"question": "Q", "choices": {"text": ["a"], "label": []}, "answer": "a"})", "without readable choices"},
           {R"({"question": "Q", "choices": [], "answer": 0})", "without readable choices"}}) {
    EXPECT_EQ(render(record).text, "") << record;
    EXPECT_THAT(render(record).problem, ::testing::HasSubstr(problem)) << record;
  }
}

}  // namespace
}  // namespace adept::data
