#include "adept/data/answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "adept/core/progress.h"
#include "adept/core/signals.h"

namespace adept::data {
namespace {

constexpr std::size_t kMostBytesOfBeginnings = std::size_t{1} << 20;  // that are rendered at once

Fault no_answer(std::string found) {
  return {"no answer", std::move(found), "an answer to train on, because train_on is assistant"};
}

bool is_answer(const Json& message) { return message.value("role", "") == "assistant"; }

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\v\f";
  const auto begin = text.find_first_not_of(kBlanks);
  return begin == std::string_view::npos ? "" : text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

/// Bytes that both start with, without a part of a character.
std::size_t common_bytes(std::string_view text, std::string_view other) {
  auto size = static_cast<std::size_t>(std::ranges::mismatch(text, other).in1 - text.begin());
  while (size > 0 && size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0U) == 0x80U) --size;
  return size;
}

std::optional<std::size_t> start_of(const AnswerTexts& t) {
  constexpr auto kNone = std::string_view::npos;
  const std::size_t shared = common_bytes(t.text, t.prompt), turn = common_bytes(t.prompt, t.before);
  if (shared == t.prompt.size() && (!t.is_first || turn < shared))
    return shared < t.from ? std::nullopt : std::optional(shared);
  // The beginning of an answer is another one in the text.
  if (t.is_first) {  // templates give all kinds of texts of no messages
    const std::size_t said = t.answer.empty() ? kNone : t.through.rfind(t.answer);
    return said != kNone && t.text.substr(said).starts_with(t.answer) ? std::optional(said) : std::nullopt;
  }
  if (shared < std::max(t.from, turn)) return std::nullopt;
  // It may agree by chance with what the answer says.
  const std::size_t said = t.answer.empty() || shared == 0 ? kNone : t.text.rfind(t.answer, shared - 1);
  return said != kNone && said >= t.from && said + t.answer.size() >= shared ? said : shared;
}

std::optional<std::size_t> end_of(const AnswerTexts& t, std::size_t start) {
  const std::size_t shared = common_bytes(t.text, t.through);
  if (shared == t.through.size()) return shared;
  // Other messages follow, and something is rendered in another way: the end of the turn, or the thoughts in front.
  constexpr std::string_view kEndOfThoughts = "</think>";
  const auto thoughts = t.answer.rfind(kEndOfThoughts);
  const std::string_view without =
      thoughts == std::string_view::npos ? "" : trimmed(t.answer.substr(thoughts + kEndOfThoughts.size()));
  for (const std::string_view said : {t.answer, without}) {
    if (said.empty()) continue;
    const auto first = t.through.find(said, start);
    if (first == std::string_view::npos) continue;
    if (first + said.size() <= shared) return shared;
    const std::string_view rest = t.through.substr(t.through.rfind(said));
    if (const auto at = t.text.find(rest, start); at != std::string_view::npos) return at + rest.size();
  }
  return std::nullopt;
}

/// Renders the beginnings of several conversations, and finds their answers.
class AnswerFinder {
 public:
  explicit AnswerFinder(const ChatTemplate& chat) : chat_(chat) {}

  void add(Answers& conversation) {
    const Json& messages = *conversation.messages;
    std::vector<std::size_t> sizes = {0};  // of the first messages
    std::size_t total = 0, num_answers = 0;
    for (const Json& message : messages) {
      sizes.push_back(sizes.back() + message.dump().size());
      if (!is_answer(message)) continue;
      ++num_answers;
      total += 2 * sizes[sizes.size() - 2] + sizes.back();
    }
    if (num_answers == 0) {
      conversation.fault = no_answer(fmt::format("{} messages, none of the role assistant", messages.size()));
      return;
    }
    if (total > kMaxRecordBytes) {
      conversation.fault = {
          "too many answers",
          fmt::format("{} answers, for which {} of messages are rendered", num_answers,
                      format_bytes(static_cast<std::int64_t>(total))),
          fmt::format("at most {}: shorter conversations, or train_on: all", format_bytes(kMaxRecordBytes))};
      return;
    }
    plans_.push_back({.conversation = &conversation, .first = beginnings_.size()});
    for (std::size_t i = 0; i < messages.size(); ++i) {
      if (!is_answer(messages[i])) continue;
      beginnings_.push_back({.messages = &messages, .count = i, .bytes = sizes[i], .add_generation_prompt = true});
      beginnings_.push_back({.messages = &messages, .count = i, .bytes = sizes[i]});
      if (i + 1 < messages.size())
        beginnings_.push_back({.messages = &messages, .count = i + 1, .bytes = sizes[i + 1]});
    }
    num_bytes_ += total;
    if (num_bytes_ >= kMostBytesOfBeginnings) finish();
  }

  void finish() {
    const std::vector<ChatTemplate::Rendered> rendered = chat_.render_beginnings(beginnings_, kMostBytesOfBeginnings);
    for (const Plan& plan : plans_) find_all(*plan.conversation, std::span(rendered).subspan(plan.first));
    plans_.clear();
    beginnings_.clear();
    num_bytes_ = 0;
  }

 private:
  struct Plan {
    Answers* conversation;
    std::size_t first;  // of its beginnings
  };

  static void find_all(Answers& conversation, std::span<const ChatTemplate::Rendered> rendered) {
    const Json& messages = *conversation.messages;
    AnswerTexts texts{.text = conversation.text};
    std::string problem;
    const auto take = [&](bool is_required) -> std::string_view {
      const ChatTemplate::Rendered& first = rendered.front();
      rendered = rendered.subspan(1);
      if (is_required && problem.empty()) problem = first.problem;
      return first.text;
    };
    for (std::size_t i = 0; i < messages.size(); ++i) {
      throw_if_interrupted();
      if (!is_answer(messages[i])) continue;
      const std::string content = message_text(messages[i]);
      texts.is_first = i == 0;
      texts.prompt = take(/*is_required=*/i > 0);  // some templates refuse no messages
      texts.before = take(/*is_required=*/i > 0);
      texts.through = i + 1 < messages.size() ? take(/*is_required=*/true) : conversation.text;
      texts.answer = trimmed(content);
      const auto span = problem.empty() ? find_answer(texts) : std::nullopt;
      if (!span) return fail(conversation, i, problem);
      conversation.spans.push_back(*span);
      texts.from = span->end;
    }
  }

  static void fail(Answers& conversation, std::size_t message, const std::string& problem) {
    conversation.spans.clear();
    conversation.fault = {
        "answers not found",
        problem.empty() ? fmt::format("that the chat template renders the messages up to {} (assistant) in another way "
                                      "than in the whole conversation",
                                      message + 1)
                        : fmt::format("for the messages up to {} (assistant) alone: {}", message + 1, problem),
        "a template whose text of the first messages does not depend on those that follow, or train_on: all"};
  }

  const ChatTemplate& chat_;
  std::vector<Plan> plans_;
  std::vector<ChatTemplate::Beginning> beginnings_;
  std::size_t num_bytes_ = 0;
};

}  // namespace

std::optional<TextSpan> find_answer(const AnswerTexts& texts) {
  const std::optional<std::size_t> start = start_of(texts);
  if (!start) return std::nullopt;
  const std::optional<std::size_t> end = end_of(texts, *start);
  if (!end || *end <= *start) return std::nullopt;
  return TextSpan{*start, *end};
}

void find_answers(const ChatTemplate& chat, std::span<Answers> conversations) {
  if (chat.marks_answers()) {
    for (Answers& conversation : conversations)
      if (conversation.spans.empty())
        conversation.fault = no_answer("messages in which the chat template marks nothing as generated");
    return;
  }
  AnswerFinder finder(chat);
  for (Answers& conversation : conversations) finder.add(conversation);
  finder.finish();
}

}  // namespace adept::data
