#include "cli/prompt.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/json.h"
#include "adept/core/signals.h"
#include "adept/data/chat_template.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

constexpr std::size_t kMaxPromptBytes = std::size_t{64} << 20;
constexpr char kStandardInput[] = "standard input";

/// Whether text is waiting on standard input, rather than a terminal or nothing.
bool has_piped_input() {
  struct stat facts = {};
  return fstat(STDIN_FILENO, &facts) == 0 &&
         (S_ISFIFO(facts.st_mode) || S_ISREG(facts.st_mode) || S_ISSOCK(facts.st_mode));
}

/// Reads to the end; a signal interrupts the wait for a writer.
std::string read_to_end(int fd, const std::string& where) {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (true) {
    wait_until_ready(fd, POLLIN);
    const std::size_t n = read_some(fd, buffer, where);
    if (n == 0) return text;
    text.append(buffer.data(), n);
    if (text.size() > kMaxPromptBytes)
      throw DataError("{}: found more than {} bytes; expected a prompt that fits into the model's context.", where,
                      kMaxPromptBytes);
  }
}

/// The text of a file; "-" is standard input.
std::string read_input(const std::string& path) {
  if (path == "-") return read_to_end(STDIN_FILENO, kStandardInput);
  const UniqueFd file = open_stream(path);
  return read_to_end(file.get(), path);
}

std::string without_last_newline(std::string text) {
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

/// The text that --prompt, --prompt-file or standard input gives, and its name.
std::string read_text(const PromptOptions& options) {
  if (options.text && *options.text != "-") return *options.text;
  const std::string path = options.file.value_or("-");
  const std::string text = without_last_newline(read_input(path));
  require_utf8(path == "-" ? kStandardInput : path, text);
  if (text.empty() && !options.file && !options.text)
    throw ConfigError("adept generate: found no prompt and empty standard input; expected --prompt TEXT.");
  return text;
}

Json read_messages(const PromptOptions& options) {
  if (options.messages) {
    const std::string where = *options.messages == "-" ? kStandardInput : *options.messages;
    Json messages = parse_json(read_input(*options.messages), where);
    data::check_messages(messages, where);
    return messages;
  }
  Json messages = Json::array();
  if (options.system) messages.push_back({{"role", "system"}, {"content", *options.system}});
  messages.push_back({{"role", "user"}, {"content", read_text(options)}});
  return messages;
}

}  // namespace

void add_prompt_options(CLI::App& command, PromptOptions& options) {
  command
      .add_option("--prompt", options.text,
                  "Text to continue; if omitted or -, read from standard input. Special tokens written out in the text "
                  "are recognized")
      ->type_name("TEXT");
  command
      .add_option("--prompt-file", options.file,
                  "File with the prompt; one final newline is removed, as from standard input")
      ->type_name("FILE");
  command.add_flag("--chat", options.chat, "Treat the prompt as a user message and apply the model's chat template");
  command.add_option("--system", options.system, "With --chat: the system message")->type_name("TEXT");
  command
      .add_option("--messages", options.messages,
                  "With --chat: a JSON file with the whole conversation instead of a prompt, [{\"role\": ..., "
                  "\"content\": ...}, ...]; - reads standard input")
      ->type_name("FILE");
  command
      .add_option("--chat-template", options.chat_template,
                  "With --chat: name of the template, if the model has several")
      ->type_name("NAME");
}

void check_prompt_options(const PromptOptions& options) {
  const bool has_prompt = options.text || options.file;
  if (!options.chat) {
    if (options.system || options.messages || options.chat_template)
      throw ConfigError("adept generate: found {} without --chat; expected both.", options.system ? "--system"
                                                                                   : options.messages
                                                                                       ? "--messages"
                                                                                       : "--chat-template");
  }
  if (options.text && options.file)
    throw ConfigError("adept generate: found --prompt and --prompt-file; expected one.");
  if (options.messages && has_prompt)
    throw ConfigError(
        "adept generate: found --messages and {}; expected one. The last message of the file is the prompt.",
        options.text ? "--prompt" : "--prompt-file");
  if (options.messages && options.system)
    throw ConfigError("adept generate: found --messages and --system; expected the system message in the file.");
  if (!has_prompt && !options.messages && !has_piped_input())
    throw ConfigError(
        "adept generate: found no prompt; expected --prompt TEXT, --prompt-file FILE{}, or text on standard input.",
        options.chat ? ", --messages FILE" : "");
  if (options.text) require_utf8("--prompt", *options.text);
  if (options.system) require_utf8("--system", *options.system);
}

Prompt read_prompt(const PromptOptions& options, const std::filesystem::path& model_dir) {
  if (!options.chat) return {.text = read_text(options), .add_special_tokens = true};
  const auto chat_template = data::ChatTemplate::from_model_dir(model_dir, options.chat_template.value_or(""));
  return {.text = chat_template.render(read_messages(options)), .add_special_tokens = false};
}

}  // namespace adept::cli
