// Renders chat templates for the parity tests. Each line of standard input is an object with "directory", "messages"
// and, if one of several templates is meant, "name"; each line of the answer has "text" or "error". With "answers":
// true, the text is the whole conversation, and "answers" lists the bytes [begin, end) of the assistant's messages in
// it.
#include <deque>
#include <iostream>
#include <string>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/data/chat_template.h"
#include "adept/data/conversations.h"

namespace {

using namespace adept;

Json conversation_with_answers(const data::ChatTemplate& chat, const Json& messages) {
  data::ConversationRenderer renderer(chat, data::TrainOn::kAssistant);
  renderer.add(messages.dump(), "here");
  std::deque<data::ConversationText> rendered;
  renderer.render(rendered);
  const data::ConversationText& result = rendered.front();
  if (!result.fault.reason.empty()) return {{"error", result.fault.reason + ": " + result.fault.found}};
  Json answers = Json::array();
  for (const data::TextSpan& span : result.answers) answers.push_back({span.begin, span.end});
  return {{"text", result.text}, {"answers", answers}};
}

}  // namespace

int main() {
  init_logging();
  for (std::string line; std::getline(std::cin, line);) {
    const Json request = Json::parse(line);
    Json answer;
    try {
      const auto chat =
          data::ChatTemplate::from_model_dir(request.at("directory").get<std::string>(), request.value("name", ""));
      if (request.value("answers", false))
        answer = conversation_with_answers(chat, request.at("messages"));
      else
        answer["text"] = chat.render(request.at("messages"));
    } catch (const Error& error) {
      answer["error"] = error.what();
    }
    std::cout << answer.dump() << std::endl;
  }
}
