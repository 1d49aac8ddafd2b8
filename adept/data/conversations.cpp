#include "adept/data/conversations.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/data/answers.h"

namespace adept::data {
namespace {

constexpr std::size_t kMostConversations = 64;
constexpr std::size_t kMostConversationBytes = std::size_t{1} << 20;

// ShareGPT's names of roles, as LLaMA-Factory and axolotl read them; others stay.
std::string role_of_sender(const std::string& sender) {
  static const std::map<std::string, std::string> kRoles = {
      {"human", "user"}, {"gpt", "assistant"}, {"function_call", "assistant"}, {"observation", "tool"}};
  const auto found = kRoles.find(sender);
  return found == kRoles.end() ? sender : found->second;
}

// Messages in ShareGPT's form, {"from": "human", "value": "..."}, get `role` and `content`. One of another form stays.
void convert_share_gpt(Json& messages) {
  if (!messages.is_array()) return;
  for (Json& message : messages) {
    if (!message.is_object() || message.contains("role") || message.contains("content")) continue;
    const auto from = message.find("from"), value = message.find("value");
    if (from == message.end() || !from->is_string() || value == message.end()) continue;
    message["role"] = role_of_sender(from->get<std::string>());
    message["content"] = std::move(message["value"]);
    message.erase("from");
    message.erase("value");
  }
}

}  // namespace

void ConversationRenderer::add(std::string_view messages, const std::string& position) {
  constexpr char kReason[] = "unreadable messages", kExpected[] = "[{\"role\": \"user\", \"content\": \"...\"}, ...]";
  Json parsed;
  try {
    parsed = parse_json(messages, "the messages");
  } catch (const DataError& error) {  // a limit of such values
    return add_bad({kReason, error.what(), kExpected}, position);
  }
  convert_share_gpt(parsed);
  if (const auto problem = messages_problem(parsed)) return add_bad({kReason, *problem, kExpected}, position);
  messages_.push_back(std::move(parsed));
  num_bytes_ += messages.size();
  waiting_.push_back({.position = position});
}

void ConversationRenderer::add_bad(Fault fault, const std::string& position) {
  waiting_.push_back({.position = position, .fault = std::move(fault)});
}

bool ConversationRenderer::is_full() const {
  return waiting_.size() >= kMostConversations || num_bytes_ >= kMostConversationBytes;
}

void ConversationRenderer::render(std::deque<ConversationText>& ready) {
  std::vector<ChatTemplate::Rendered> rendered;
  if (!messages_.empty()) rendered = chat_.render_conversations(messages_);
  std::vector<Answers> answers;
  std::vector<ConversationText*> good;
  std::size_t next = 0;
  for (ConversationText& conversation : waiting_) {
    if (!conversation.fault.reason.empty()) continue;
    const Json& messages = messages_[next];
    ChatTemplate::Rendered& result = rendered.at(next++);
    conversation.text = std::move(result.text);
    if (!result.problem.empty()) {
      conversation.fault = {"messages not rendered", result.problem, "messages that the chat template accepts"};
      continue;
    }
    if (result.omits_text && !std::exchange(has_warned_, true))
      log_warning(
          "{}: the chat template omits text of these messages; further conversations of which it does are not listed",
          conversation.position);
    good.push_back(&conversation);
    answers.push_back({.messages = &messages, .text = conversation.text, .spans = std::move(result.answers)});
  }
  if (train_on_ == TrainOn::kAssistant) {
    find_answers(chat_, answers);
    for (std::size_t i = 0; i < good.size(); ++i) {
      good[i]->answers = std::move(answers[i].spans);
      good[i]->fault = std::move(answers[i].fault);
    }
  }
  std::ranges::move(waiting_, std::back_inserter(ready));
  waiting_.clear();
  messages_.clear();
  num_bytes_ = 0;
}

}  // namespace adept::data
