// Where the answers of a conversation are in its text.
//
// A template with {% generation %} marks them. With another one, the text is compared with renderings of the
// conversation's beginnings: an answer starts where the text differs from that of the messages before it with the
// beginning of an answer (add_generation_prompt), and ends where the text of the messages up to it ends. Internal to
// adept::data.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/chat_template.h"
#include "adept/data/readers/reader.h"

namespace adept::data {

/// Changes when the answers of the same messages may change.
inline constexpr char kAnswersRule[] = "answers 1";

/// One answer: what find_answer() compares.
struct AnswerTexts {
  std::string_view text;       ///< of the conversation
  bool is_first = false;       ///< whether no message is before the answer
  std::string_view before{};   ///< of the messages before it
  std::string_view prompt{};   ///< the same with the beginning of an answer
  std::string_view through{};  ///< of the messages up to the answer
  std::string_view answer{};   ///< what the answer says; may be empty
  std::size_t from = 0;        ///< where the answer before it ends in `text`
};

/// The bytes of an answer in `text`: without the beginning that the prompt gives, and with what the template writes
/// after it (the end of the turn). Nothing if the template renders these messages in another way once others follow.
std::optional<TextSpan> find_answer(const AnswerTexts& texts);

/// A conversation, its text, and the answers in it.
struct Answers {
  const Json* messages;
  std::string_view text;
  std::vector<TextSpan> spans{};  ///< ascending
  Fault fault{};                  ///< why there are none: no answer, or not found
};

/// Finds the answers (messages of the role assistant), or sets the fault. `spans` must be those that the template marks
/// (ChatTemplate::Rendered). Beginnings of several conversations are rendered at once; those of one have at most
/// kMaxRecordBytes.
void find_answers(const ChatTemplate& chat, std::span<Answers> conversations);

}  // namespace adept::data
