// A model's chat template: converts a conversation to the text that the model continues, as in transformers'
// apply_chat_template(messages, tokenize=False, add_generation_prompt=True).
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/data/jinja.h"

namespace adept::data {

/// Bytes [begin, end) of a text.
struct TextSpan {
  std::size_t begin = 0;
  std::size_t end = 0;

  bool operator==(const TextSpan&) const = default;
};

class ChatTemplate {
 public:
  /// The template `name` of a model directory; an empty name is "default". Templates are, as in transformers,
  /// chat_template.jinja (the default) and additional_chat_templates/NAME.jinja, or, if none of these files exists,
  /// `chat_template` of tokenizer_config.json: one template (the default), or a list of {"name", "template"}. The
  /// tokens bos, eos, unk, sep, pad, cls and mask that the tokenizer's files name (tokenizer_settings.h) are variables
  /// of the template.
  ///
  /// Throws DataError if the model has no template of that name, or a file is damaged.
  static ChatTemplate from_model_dir(const std::filesystem::path& dir, const std::string& name = "");

  /// The text of `messages`, a list of objects with a "role", and the beginning of the assistant's answer. It contains
  /// the special tokens that the template writes (including any BOS), so encode it without adding others.
  ///
  /// Warns if it omits text of a user or system message. Throws DataError with file and line if the template refuses
  /// the messages or cannot be rendered.
  std::string render(const Json& messages) const;

  /// Whole conversations as text, without the beginning of another answer (add_generation_prompt=False), for training.
  /// Each is rendered or has its own problem. It logs nothing.
  struct Rendered {
    std::string text{};
    std::vector<TextSpan> answers{};  ///< that the template marks
    std::string problem{};            ///< why there is no text: "the chat template rejects these messages: ...", or
                                      ///< loses parts of them
    bool omits_text = false;          ///< of a user or system message
  };
  std::vector<Rendered> render_conversations(std::span<const Json> conversations) const;
  /// Whether the template marks the answers: {% generation %} ... {% endgeneration %}.
  bool marks_answers() const;

  /// The first messages of a conversation.
  struct Beginning {
    const Json* messages;
    std::size_t count;
    std::size_t bytes;  ///< about the length of their text
    bool add_generation_prompt = false;
  };
  /// The same of beginnings, without marks and omits_text; several at a time, of about `most_bytes`.
  std::vector<Rendered> render_beginnings(std::span<const Beginning> beginnings, std::size_t most_bytes) const;

  /// Changes when the text may change.
  std::string fingerprint() const;

 private:
  Json variables(const Json& messages, bool add_generation_prompt) const;
  std::string place(int line) const;
  std::string describe(const JinjaError& error) const;
  Rendered rendered(JinjaResult result) const;

  std::string file_;    ///< for messages
  std::string key_;     ///< in the file; empty: the file is the template
  std::string source_;  ///< the template
  Json tokens_;         ///< bos_token etc.
};

/// What a message says: its content, or the text of its parts.
std::string message_text(const Json& message);
/// The names of the functions that a message calls (tool_calls); "" for a call without one.
std::vector<std::string> called_functions(const Json& message);
/// What is found instead of a list of one or more objects with a string "role" and a "content", which is a string or a
/// list of texts, or absent where functions are called: "no list of messages", "message 2 without a \"role\"". Nothing
/// if the messages are good.
std::optional<std::string> messages_problem(const Json& messages);
/// Throws ConfigError with messages_problem(), if there is one; `where` names the messages.
void check_messages(const Json& messages, const std::string& where);

}  // namespace adept::data
