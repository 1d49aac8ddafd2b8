#include "adept/data/chat_template.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <regex>
#include <sstream>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/data/jinja.h"
#include "adept/data/tokenizer/json_field.h"
#include "adept/data/tokenizer/tokenizer_settings.h"
#include "adept/data/utf8.h"
#include "adept/io/text_quote.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxTemplateBytes = std::uintmax_t{1} << 20;
constexpr char kDefault[] = "default";

struct NamedTemplate {
  std::string name, file, key, source;
};

std::string read_template(const fs::path& path) {
  std::string text = read_all(open_for_reading(path), path, kMaxTemplateBytes);
  if (text.size() > kMaxTemplateBytes)
    throw DataError("{}: the chat template is longer than {} bytes, the limit.", path.string(), kMaxTemplateBytes);
  return text;
}

std::vector<NamedTemplate> templates_in_files(const fs::path& dir) {
  std::vector<NamedTemplate> found;
  if (const fs::path path = dir / "chat_template.jinja"; is_present(path))
    found.push_back({kDefault, path.string(), "", read_template(path)});
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir / "additional_chat_templates", none))
    if (entry.path().extension() == ".jinja")
      found.push_back({entry.path().stem().string(), entry.path().string(), "", read_template(entry.path())});
  return found;
}

std::vector<NamedTemplate> templates_in_config(const SortedJson& config, const std::string& file) {
  const std::string key = "chat_template";
  const auto value = tok::JsonField(config, file).find(key);
  if (!value) return {};
  if (value->json().is_string()) return {{kDefault, file, key, value->as_string()}};
  if (!value->json().is_array()) value->fail("is neither a template nor a list of named templates.");
  std::vector<NamedTemplate> found;
  for (std::size_t i = 0; i < value->json().size(); ++i) {
    const tok::JsonField item = value->at(i);
    const std::string& name = item.at("name").as_string();
    found.push_back({name, file, fmt::format("{} \"{}\"", key, name), item.at("template").as_string()});
  }
  return found;
}

/// Whether every line of `message` is in `text`, verbatim or JSON-escaped, ignoring surrounding white space.
bool holds_text_of(const Json& message, const std::string& text) {
  std::istringstream lines(message_text(message));
  std::size_t from = 0;  // lines mostly follow each other
  for (std::string line; std::getline(lines, line);) {
    throw_if_interrupted();
    constexpr char kBlanks[] = " \t\r\v\f";
    const auto begin = line.find_first_not_of(kBlanks);
    if (begin == std::string::npos) continue;
    line = line.substr(begin, line.find_last_not_of(kBlanks) + 1 - begin);
    const std::string quoted = Json(line).dump(), escaped = quoted.substr(1, quoted.size() - 2);
    std::size_t found = text.find(line, from);
    if (found == std::string::npos) found = text.find(escaped, from);
    if (found == std::string::npos) found = text.find(line);
    if (found == std::string::npos) found = text.find(escaped);
    if (found == std::string::npos) return false;
    from = found + line.size();
  }
  return true;
}

/// Whether a message of the user or the system is not in `text`.
bool is_omitted(const Json& message, const std::string& text) {
  const std::string role = message.value("role", "");
  return (role == "user" || role == "system") && !holds_text_of(message, text);
}

/// What is wrong with the calls of functions in a message; nothing if there are none, or each names its function.
std::optional<std::string> calls_problem(const Json& message) {
  for (const std::string& name : called_functions(message))
    if (name.empty()) return "a call of a function without a name";
  return std::nullopt;
}

bool is_part_of_text(const Json& part) {
  return part.is_object() && part.value("type", Json()) == "text" && part.contains("text") && part["text"].is_string();
}

/// Whether the model or a user says it. What other roles have, such as the result of a function, may be any value.
bool is_said(const Json& message) {
  const std::string role = message.value("role", "");
  return role == "user" || role == "system" || role == "assistant";
}

/// Whether it says a list of texts.
bool has_parts(const Json& message) {
  const auto content = message.find("content");
  return is_said(message) && content != message.end() && content->is_array();
}

/// What is wrong with what a message says. Templates write what they do not know as no text, or as Python writes it.
std::optional<std::string> content_problem(const Json& message) {
  const auto content = message.find("content");
  const bool is_absent = content == message.end() || content->is_null();
  if (is_absent && !called_functions(message).empty()) return std::nullopt;
  if (content == message.end()) return "no \"content\"";
  if (is_absent) return "a \"content\" of null";
  if (content->is_string() || !is_said(message)) return std::nullopt;
  if (!content->is_array()) return fmt::format("a \"content\" of type {}", content->type_name());
  if (content->empty()) return "a \"content\" without parts";
  if (!std::all_of(content->begin(), content->end(), is_part_of_text))
    return "a part of its \"content\" that is not {\"type\": \"text\", \"text\": \"...\"}";
  return std::nullopt;
}

/// What of a message is not in the text, although a model would be trained on it; nothing if all is.
std::optional<std::string> lost_part(const Json& message, const std::string& text) {
  for (const std::string& name : called_functions(message))
    if (text.find(name) == std::string::npos) return fmt::format("its call of the function {}", io::quote(name));
  if (!has_parts(message)) return std::nullopt;
  std::string said = message_text(message);
  bool is_lost = false;  // or written by Python, or as JSON
  for (const char* written : {"'type': 'text'", "\"type\": \"text\""})
    is_lost = is_lost || (text.find(written) != std::string::npos && said.find(written) == std::string::npos);
  // Templates may remove the thoughts of earlier answers.
  constexpr std::string_view kThoughtsEnd = "</think>";
  if (const auto end = said.rfind(kThoughtsEnd); end != std::string::npos) said.erase(0, end + kThoughtsEnd.size());
  is_lost = is_lost || !holds_text_of({{"content", said}}, text);
  return is_lost ? std::optional<std::string>("the parts of its content as text") : std::nullopt;
}

/// Removes the marks of generation blocks; their bytes [begin, end) in what is left. A block that is not closed ends
/// with the text.
std::vector<TextSpan> take_marks(std::string& text) {
  std::vector<TextSpan> spans;
  bool is_open = false;
  std::size_t size = 0;
  for (const char c : text) {
    if (c == kGenerationBegin && !std::exchange(is_open, true)) spans.push_back({size, size});
    if (c == kGenerationEnd && std::exchange(is_open, false)) spans.back().end = size;
    if (c != kGenerationBegin && c != kGenerationEnd) text[size++] = c;
  }
  text.resize(size);
  if (is_open) spans.back().end = size;
  std::erase_if(spans, [](const TextSpan& span) { return span.begin == span.end; });
  return spans;
}

/// Variables that transformers passes to templates.
Json named_tokens(const fs::path& dir) {
  Json tokens = Json::object();
  for (const tok::NamedToken& named : tok::read_tokenizer_settings(dir).named)
    if (named.token && tok::is_standard_name(named.name)) tokens[named.name] = named.token->content;
  return tokens;
}

}  // namespace

ChatTemplate ChatTemplate::from_model_dir(const fs::path& dir, const std::string& name) {
  const fs::path config_path = dir / "tokenizer_config.json";
  const std::string config_file = config_path.string();
  SortedJson config = SortedJson::object();
  if (is_present(config_path)) config = read_sorted_json(config_path);
  if (!config.is_object()) throw DataError("{}: expected an object.", config_file);
  std::vector<NamedTemplate> known = templates_in_files(dir);
  if (known.empty()) known = templates_in_config(config, config_file);
  if (known.empty())
    throw DataError(
        "{}: has no chat template (no chat_template.jinja, no chat_template in tokenizer_config.json); base models "
        "usually have none. Without --chat, a prompt needs none; text_field and template need none instead of "
        "messages_field.",
        dir.string());
  const std::string wanted = name.empty() ? kDefault : name;
  const auto chosen =
      std::find_if(known.begin(), known.end(), [&](const NamedTemplate& each) { return each.name == wanted; });
  if (chosen == known.end()) {
    std::vector<std::string> names;
    for (const NamedTemplate& each : known) names.push_back(each.name);
    std::sort(names.begin(), names.end());
    throw DataError("{}: has no chat template {}; choose one with --chat-template: {}.", dir.string(),
                    io::quote(wanted), fmt::join(names, ", "));
  }
  if (find_invalid_utf8(chosen->source)) throw DataError("{}: the chat template is not UTF-8.", chosen->file);
  ChatTemplate result;
  result.file_ = chosen->file;
  result.key_ = chosen->key;
  result.source_ = chosen->source;
  result.tokens_ = named_tokens(dir);
  return result;
}

Json ChatTemplate::variables(const Json& messages, bool add_generation_prompt) const {
  Json all = tokens_;
  all["messages"] = messages;
  all["tools"] = nullptr;
  all["documents"] = nullptr;
  all["add_generation_prompt"] = add_generation_prompt;
  return all;
}

std::string ChatTemplate::place(int line) const {
  std::string text = file_;
  if (!key_.empty()) text += ": " + key_;
  if (line > 0) text += (key_.empty() ? ":" : ", line ") + std::to_string(line);
  return text;
}

std::string ChatTemplate::describe(const JinjaError& error) const {
  return error.refused
             ? fmt::format("{}: the chat template rejects these messages: {}", place(error.line), error.what())
             : fmt::format("{}: the chat template cannot be rendered: {}.", place(error.line), error.what());
}

std::string ChatTemplate::render(const Json& messages) const {
  constexpr char kAdvice[] = "Pass the text of the conversation as the prompt instead, without --chat.";
  std::string text;
  try {
    text = render_jinja(source_, variables(messages, true));
  } catch (const JinjaError& error) {
    throw DataError("{}{}{}", describe(error), error.refused ? "" : " ", error.refused ? "" : kAdvice);
  }
  // The engine counts bytes where jinja2 counts characters.
  if (find_invalid_utf8(text))
    throw DataError("{}: the chat template splits a character of the messages. {}", place(0), kAdvice);
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (is_omitted(messages[i], text))
      log_warning("{}: the chat template omits text of message {} ({})", place(0), i + 1,
                  messages[i].value("role", ""));
  return text;
}

ChatTemplate::Rendered ChatTemplate::rendered(JinjaResult result) const {
  Rendered rendered{.text = std::move(result.text)};
  if (result.error)
    rendered.problem = describe(*result.error);
  else if (rendered.answers = take_marks(rendered.text); find_invalid_utf8(rendered.text))
    rendered.problem = fmt::format("{}: the chat template splits a character of the messages.", place(0));
  return rendered;
}

std::vector<ChatTemplate::Rendered> ChatTemplate::render_conversations(std::span<const Json> conversations) const {
  std::vector<Json> inputs;
  for (const Json& messages : conversations) inputs.push_back(variables(messages, false));
  std::vector<Rendered> all;
  for (JinjaResult& result : render_jinja_each(source_, inputs, GenerationBlocks::kMarked)) {
    const Json& messages = conversations[all.size()];
    Rendered& rendered = all.emplace_back(this->rendered(std::move(result)));
    for (std::size_t i = 0; i < messages.size() && rendered.problem.empty(); ++i)
      if (const auto lost = lost_part(messages[i], rendered.text))
        rendered.problem = fmt::format("{}: the chat template does not write {} (message {}, {})", place(0), *lost,
                                       i + 1, messages[i].value("role", ""));
    rendered.omits_text = rendered.problem.empty() &&
                          std::any_of(messages.begin(), messages.end(),
                                      [&](const Json& message) { return is_omitted(message, rendered.text); });
  }
  return all;
}

std::vector<ChatTemplate::Rendered> ChatTemplate::render_beginnings(std::span<const Beginning> beginnings,
                                                                    std::size_t most_bytes) const {
  std::vector<Rendered> all;
  std::vector<Json> inputs;
  std::size_t bytes = 0;
  const auto render = [&] {
    for (JinjaResult& result : render_jinja_each(source_, inputs)) all.push_back(rendered(std::move(result)));
    inputs.clear();
    bytes = 0;
  };
  for (const Beginning& beginning : beginnings) {
    const auto first = beginning.messages->begin();
    inputs.push_back(variables(Json(Json::array_t(first, first + static_cast<std::ptrdiff_t>(beginning.count))),
                               beginning.add_generation_prompt));
    if ((bytes += beginning.bytes) >= most_bytes) render();
  }
  if (!inputs.empty()) render();
  return all;
}

bool ChatTemplate::marks_answers() const {
  static const std::regex kBlock(R"(\{%[-+]?\s*generation\s*[-+]?%\})");
  return std::regex_search(source_, kBlock);
}

std::string ChatTemplate::fingerprint() const {
  Hasher hasher;
  hasher.update(fmt::format("chat template {}\n{}\n{}", source_.size(), source_, tokens_.dump()));
  return hasher.digest();
}

std::string message_text(const Json& message) {
  const Json content = message.value("content", Json());
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (content.is_array())
    for (const Json& part : content)
      if (part.is_object() && part.contains("text") && part["text"].is_string())
        text += part["text"].get<std::string>() + "\n";
  return text;
}

std::vector<std::string> called_functions(const Json& message) {
  std::vector<std::string> names;
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return names;
  for (const Json& call : *calls) {
    const Json& function = call.is_object() && call.contains("function") ? call["function"] : call;
    const Json name = function.is_object() ? function.value("name", Json()) : Json();
    names.push_back(name.is_string() ? name.get<std::string>() : "");
  }
  return names;
}

std::optional<std::string> messages_problem(const Json& messages) {
  if (!messages.is_array() || messages.empty()) return "no list of messages";
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!message.is_object() || !message.contains("role") || !message["role"].is_string())
      return fmt::format("message {} without a \"role\"", i + 1);
    std::optional<std::string> problem = content_problem(message);
    if (!problem) problem = calls_problem(message);
    if (problem) return fmt::format("message {} ({}) with {}", i + 1, message["role"].get<std::string>(), *problem);
  }
  return std::nullopt;
}

void check_messages(const Json& messages, const std::string& where) {
  if (const auto problem = messages_problem(messages))
    throw ConfigError("{}: found {}; expected [{{\"role\": \"user\", \"content\": \"...\"}}, ...].", where, *problem);
}

}  // namespace adept::data
