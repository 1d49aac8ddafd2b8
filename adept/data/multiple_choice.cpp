#include "adept/data/multiple_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

struct Choice {
  std::string label;
  std::string text;
};

std::string letter(std::size_t i) { return std::string(1, static_cast<char>('A' + i)); }

std::string stripped(const std::string& text) {
  constexpr std::string_view blanks = " \t\r\n";
  const auto begin = text.find_first_not_of(blanks);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

bool are_strings(const Json& list) {
  return list.is_array() && std::all_of(list.begin(), list.end(), [](const Json& item) { return item.is_string(); });
}

// Empty if they have no known form.
std::vector<Choice> read_choices(const Json& json) {
  std::vector<Choice> choices;
  if (are_strings(json)) {
    for (const Json& text : json) choices.push_back({letter(choices.size()), text.get<std::string>()});
  } else if (json.is_object() && json.contains("text") && json.contains("label")) {
    const Json& texts = json["text"];
    const Json& labels = json["label"];
    if (!are_strings(texts) || !are_strings(labels) || texts.size() != labels.size()) return {};
    for (std::size_t i = 0; i < texts.size(); ++i)
      choices.push_back({labels[i].get<std::string>(), texts[i].get<std::string>()});
  } else if (json.is_object()) {
    for (const auto& [label, text] : json.items()) {
      if (!text.is_string()) return {};
      choices.push_back({label, text.get<std::string>()});
    }
  }
  return choices.size() <= 26 ? choices : std::vector<Choice>{};
}

// The index of the correct choice.
std::optional<std::size_t> read_answer(const Json& answer, const std::vector<Choice>& choices) {
  if (answer.is_number_unsigned() && answer.get<std::uint64_t>() < choices.size()) return answer.get<std::size_t>();
  if (!answer.is_string()) return std::nullopt;
  const auto word = answer.get<std::string>();
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (choices[i].label == word) return i;
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (choices[i].text == word) return i;
  return std::nullopt;
}

const Json* first_of(const Json& record, std::initializer_list<const char*> keys) {
  for (const char* key : keys)
    if (record.contains(key)) return &record[key];
  return nullptr;
}

}  // namespace

MultipleChoice render_multiple_choice(const Json& json) {
  if (!json.is_object()) return {};
  const Json* question = first_of(json, {"question"});
  const Json* listed = first_of(json, {"choices", "options"});
  const Json* answer = first_of(json, {"answer_idx", "answerKey", "answer"});
  if (question == nullptr || !question->is_string() || listed == nullptr || answer == nullptr) return {};
  const std::vector<Choice> choices = read_choices(*listed);
  if (choices.empty()) return {.text = "", .problem = "a question without readable choices"};
  const std::optional<std::size_t> right = read_answer(*answer, choices);
  if (!right)
    return {.text = "",
            .problem = fmt::format("a question whose answer {} is not among its {} choices",
                                   io::quote(answer->is_string() ? answer->get<std::string>() : answer->dump()),
                                   choices.size())};
  std::string text = stripped(question->get<std::string>()) + "\n";
  for (std::size_t i = 0; i < choices.size(); ++i) text += fmt::format("{}. {}\n", letter(i), choices[i].text);
  return {.text = text + "Answer: " + letter(*right), .problem = ""};
}

}  // namespace adept::data
