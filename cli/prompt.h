// What `adept generate` continues: a text, or a conversation that the model's chat template turns into one.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>

namespace adept::cli {

/// What the options say.
struct PromptOptions {
  std::optional<std::string> text, file;
  bool chat = false;
  std::optional<std::string> system, messages, chat_template;
};

/// --prompt, --prompt-file, --chat, --system, --messages, --chat-template.
void add_prompt_options(CLI::App& command, PromptOptions& options);

/// Text for the tokenizer.
struct Prompt {
  std::string text;
  bool add_special_tokens;  ///< as for any text; a chat template has written them
};

/// Throws ConfigError for options that contradict each other.
void check_prompt_options(const PromptOptions& options);

/// Reads the prompt: from --prompt, --prompt-file or --messages, else from standard input if that is a pipe or a file.
/// One newline at the end of a file or of standard input is not part of the prompt.
///
/// Throws ConfigError if there is none or it is not UTF-8; DataError if a file cannot be read, or `model_dir` has no
/// chat template that takes the conversation.
Prompt read_prompt(const PromptOptions& options, const std::filesystem::path& model_dir);

}  // namespace adept::cli
