#include "cli/completion.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

#include "adept/config/types.h"

namespace adept::cli {
namespace {

/// How a value is completed.
enum class Value { kNone, kText, kWords, kFile, kDirectory, kNamedFile, kKey };

struct Option {
  std::string name;         ///< "--dtype"; of a positional argument its name
  std::string description;  ///< the first line
  Value value = Value::kNone;
  std::vector<std::string> words;  ///< of kWords
  bool is_positional = false;
};

struct Command {
  std::string name, description;
  std::vector<Option> options;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::string summary_of(const std::string& text) { return text.substr(0, text.find('\n')); }

/// The names in "fp32|bf16", as options and keys of the configuration show their choices; none in any other text.
std::vector<std::string> choices_in(const std::string& type) {
  if (type.find('|') == std::string::npos) return {};
  std::vector<std::string> words = split(type, '|');
  const auto is_name = [](const std::string& word) {
    return !word.empty() && std::isalpha(static_cast<unsigned char>(word.front())) &&
           std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
  };
  if (!std::all_of(words.begin(), words.end(), is_name)) words.clear();
  return words;
}

Option describe(const CLI::Option& option) {
  Option result;
  result.is_positional = option.get_positional();
  result.name = result.is_positional ? option.get_name(true) : "--" + option.get_lnames().front();
  result.description = summary_of(option.get_description());
  const std::string type = option.get_type_name();
  result.words = choices_in(type);
  if (type == "[KEY]")
    for (const config::KeyDoc& doc : config::all_keys()) result.words.push_back(doc.key);
  if (option.get_items_expected_max() == 0)
    result.value = Value::kNone;
  else if (!result.words.empty())
    result.value = Value::kWords;
  else if (type == "DIR")
    result.value = Value::kDirectory;
  else if (type == "FILE" || type == "CONFIG.yaml")
    result.value = Value::kFile;
  else if (type == "[NAME=]PATH")
    result.value = Value::kNamedFile;
  else if (type == "KEY=VALUE")
    result.value = Value::kKey;
  else
    result.value = Value::kText;
  return result;
}

Command describe(const CLI::App& app) {
  Command command{app.get_name(), summary_of(app.get_description()), {}};
  for (const CLI::Option* option : app.get_options())
    if (option->get_positional() || !option->get_lnames().empty()) command.options.push_back(describe(*option));
  return command;
}

std::vector<Command> commands_of(const CLI::App& app) {
  std::vector<Command> commands;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    commands.push_back(describe(*command));
  return commands;
}

/// A key of --set, and its values if it is a choice.
struct Key {
  std::string name;
  std::vector<std::string> words;
};

std::vector<Key> config_keys() {
  std::vector<Key> keys;
  for (const config::KeyDoc& doc : config::all_keys()) {
    std::string name = doc.key;
    for (auto at = name.find(".N."); at != std::string::npos; at = name.find(".N.")) name.replace(at, 3, ".0.");
    keys.push_back({name, choices_in(doc.type)});
  }
  return keys;
}

std::vector<std::string> names_of(const std::vector<Key>& keys, const std::string& suffix) {
  std::vector<std::string> names;
  for (const Key& key : keys) names.push_back(key.name + suffix);
  return names;
}

std::vector<std::string> option_names(const Command& command) {
  std::vector<std::string> names;
  for (const Option& option : command.options)
    if (!option.is_positional) names.push_back(option.name);
  return names;
}

std::string replace_all(std::string text, const std::string& from, const std::string& to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
  return text;
}

/// In single quotes, for bash and zsh.
std::string quoted(const std::string& text) { return "'" + replace_all(text, "'", "'\\''") + "'"; }

std::string bash_action(const Option& option) {
  switch (option.value) {
    case Value::kWords:
      return fmt::format("_adept_words '{}'", fmt::join(option.words, " "));
    case Value::kFile:
    case Value::kNamedFile:
      return "_adept_paths -f";
    case Value::kDirectory:
      return "_adept_paths -d";
    case Value::kKey:
      return "_adept_key";
    case Value::kNone:
    case Value::kText:
      break;
  }
  return ":";
}

}  // namespace

std::string bash_completion(const CLI::App& app) {
  const std::vector<Command> commands = commands_of(app);
  const std::vector<Key> keys = config_keys();
  std::string script = R"(# Completion of adept for bash: source <(adept completion bash)
_adept_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }
_adept_paths() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen "$1" -- "$cur")
}
_adept_key() {
  case $key in
    '')
      compopt -o nospace 2>/dev/null
)";
  script += fmt::format("      _adept_words '{}' ;;\n", fmt::join(names_of(keys, "="), " "));
  for (const Key& key : keys)
    if (!key.words.empty())
      script += fmt::format("    {}) _adept_words '{}' ;;\n", key.name, fmt::join(key.words, " "));
  script += R"(  esac
}
_adept() {
  # bash splits words at "=": [--option] [=] [KEY] [=] cur
  local cur=${COMP_WORDS[COMP_CWORD]} at=$COMP_CWORD command=${COMP_WORDS[1]} key='' option
  COMPREPLY=()
  if [[ $cur == = ]]; then cur=''; else ((at -= 1)); fi
  if [[ ${COMP_WORDS[at]} == = ]]; then
    ((at -= 1))
    if [[ ${COMP_WORDS[at]} != -* ]]; then
      key=${COMP_WORDS[at]}
      ((at -= 1))
      if [[ ${COMP_WORDS[at]} == = ]]; then ((at -= 1)); fi
    fi
  fi
  option=${COMP_WORDS[at]}
  if ((COMP_CWORD == 1)); then
)";
  std::vector<std::string> first = option_names(describe(app));
  for (const Command& command : commands) first.push_back(command.name);
  script +=
      fmt::format("    _adept_words '{}'\n    return\n  fi\n  case \"$command $option\" in\n", fmt::join(first, " "));
  for (const Command& command : commands)
    for (const Option& option : command.options)
      if (!option.is_positional && option.value != Value::kNone)
        script += fmt::format("    '{} {}') {} ; return ;;\n", command.name, option.name, bash_action(option));
  script += "  esac\n  case $command in\n";
  for (const Command& command : commands) {
    std::string otherwise = ":";
    for (const Option& option : command.options)
      if (option.is_positional) otherwise = bash_action(option);
    const std::string names = fmt::format("_adept_words '{}'", fmt::join(option_names(command), " "));
    script += fmt::format("    {}) if [[ $cur == -* ]]; then {}; else {}; fi ;;\n", command.name, names,
                          otherwise == ":" ? names : otherwise);
  }
  return script + "  esac\n}\ncomplete -F _adept adept\n";
}

namespace {

/// Text for "[description]:name:action", with special characters escaped.
std::string zsh_text(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_action(const Option& option) {
  switch (option.value) {
    case Value::kWords:
      return fmt::format(":value:({})", fmt::join(option.words, " "));
    case Value::kFile:
      return ":file:_files";
    case Value::kNamedFile:
      return ":file:_adept_named_file";
    case Value::kDirectory:
      return ":directory:_files -/";
    case Value::kKey:
      return ":key:_adept_key";
    case Value::kText:
      return ":value: ";
    case Value::kNone:
      break;
  }
  return "";
}

std::string zsh_specification(const Option& option) {
  if (option.is_positional) return quoted("1" + zsh_action(option));
  const std::string name = option.name + (option.value == Value::kNone ? "" : "=");
  return quoted(fmt::format("*{}[{}]{}", name, zsh_text(option.description), zsh_action(option)));
}

}  // namespace

std::string zsh_completion(const CLI::App& app) {
  const std::vector<Command> commands = commands_of(app);
  std::string script = "#compdef adept\n# Completion of adept for zsh: source <(adept completion zsh)\n";
  script += "_adept_key() {\n  if ! compset -P 1 '*='; then\n    compadd -S '=' -q -- \\\n";
  const std::vector<Key> keys = config_keys();
  script += fmt::format("      {}\n    return\n  fi\n  case $IPREFIX in\n", fmt::join(names_of(keys, ""), " "));
  for (const Key& key : keys)
    if (!key.words.empty()) script += fmt::format("    *{}=) compadd -- {} ;;\n", key.name, fmt::join(key.words, " "));
  script += R"(  esac
}
_adept_named_file() {
  compset -P 1 '*='
  _files
}
_adept() {
  local context state line
  typeset -A opt_args
  _arguments -C \
)";
  for (const Option& option : describe(app).options) script += "    " + zsh_specification(option) + " \\\n";
  script += R"(    '1:command:->command' '*::argument:->argument'
  case $state in
    command)
      local -a commands=(
)";
  for (const Command& command : commands)
    script += fmt::format("        {}\n", quoted(command.name + ":" + replace_all(command.description, ":", "\\:")));
  script += "      )\n      _describe command commands ;;\n    argument)\n      case $line[1] in\n";
  for (const Command& command : commands) {
    script += fmt::format("        {}) _arguments", command.name);
    for (const Option& option : command.options) script += " \\\n            " + zsh_specification(option);
    script += " ;;\n";
  }
  return script + R"(      esac ;;
  esac
}
if [[ $funcstack[1] == _adept ]]; then _adept "$@"; else compdef _adept adept; fi
)";
}

namespace {

/// In single quotes, for fish.
std::string fish_quoted(const std::string& text) {
  return "'" + replace_all(replace_all(text, "\\", "\\\\"), "'", "\\'") + "'";
}

std::string fish_action(const Option& option) {
  switch (option.value) {
    case Value::kWords:
      return fmt::format(" -x -a '{}'", fmt::join(option.words, " "));
    case Value::kFile:
    case Value::kNamedFile:
      return " -r -F";
    case Value::kDirectory:
      return " -x -a '(__fish_complete_directories)'";
    case Value::kKey:
      return " -x -a '(__adept_keys)'";
    case Value::kText:
      return " -x";
    case Value::kNone:
      break;
  }
  return "";
}

}  // namespace

std::string fish_completion(const CLI::App& app) {
  std::vector<std::string> words;
  for (const Key& key : config_keys()) {
    words.push_back(key.name + "=");
    for (const std::string& word : key.words) words.push_back(key.name + "=" + word);
  }
  std::string script = "# Completion of adept for fish: adept completion fish | source\nfunction __adept_keys\n";
  script += fmt::format("  printf '%s\\n' {}\nend\ncomplete -c adept -f\n", fmt::join(words, " "));
  const auto add = [&](const std::string& condition, const Option& option) {
    script += fmt::format("complete -c adept -n {}", fish_quoted(condition));
    if (!option.is_positional)
      script += fmt::format(" -l {} -d {}", option.name.substr(2), fish_quoted(option.description));
    script += fish_action(option) + "\n";
  };
  for (const Option& option : describe(app).options) add("__fish_use_subcommand", option);
  for (const Command& command : commands_of(app)) {
    script += fmt::format("complete -c adept -n '__fish_use_subcommand' -a {} -d {}\n", command.name,
                          fish_quoted(command.description));
    for (const Option& option : command.options) add("__fish_seen_subcommand_from " + command.name, option);
  }
  return script;
}

}  // namespace adept::cli
