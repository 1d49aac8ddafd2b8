// The input of `adept generate`: a text, or a conversation that the model's chat template converts to one.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>

namespace adept::cli {

/// Values of the options.
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
  bool add_special_tokens;  ///< false for a rendered chat template, which contains them
};

/// Throws ConfigError for options that contradict each other.
void check_prompt_options(const PromptOptions& options);

/// Reads the prompt: from --prompt, --prompt-file or --messages, else from standard input if that is a pipe or a file.
/// Removes one final newline of a file or of standard input.
///
/// Throws ConfigError if there is none or it is not UTF-8; DataError if a file cannot be read, or `model_dir` has no
/// chat template that accepts the conversation.
Prompt read_prompt(const PromptOptions& options, const std::filesystem::path& model_dir);

}  // namespace adept::cli
