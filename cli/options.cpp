#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/text_encoding.h"
#include "adept/data/readers/formats.h"
#include "adept/data/text_source.h"
#include "adept/data/utf8.h"
#include "adept/dist/launch.h"
#include "adept/dist/local_processes.h"
#include "adept/dist/process_group.h"
#include "adept/io/byte_reader.h"
#include "adept/io/rereadable.h"
#include "adept/run/run_directory.h"
#include "adept/run/text.h"

namespace adept::cli {
namespace {

constexpr std::int64_t kMaxTokens = 1'000'000'000'000'000;

/// The arguments of this process without its name, and without `option` and its value.
std::vector<std::string> arguments_without(const std::string& option) {
  std::ifstream file("/proc/self/cmdline");
  std::vector<std::string> arguments;
  std::string word;
  std::getline(file, word, '\0');
  while (std::getline(file, word, '\0')) {
    if (word == option)
      std::getline(file, word, '\0');
    else if (!word.starts_with(option + "="))
      arguments.push_back(word);
  }
  return arguments;
}

/// --`name` with the spellings of an enum; `target` keeps its value as the default.
template <typename Enum>
CLI::Option* add_choice(CLI::App& command, const std::string& name, Enum& target, const std::string& description) {
  const std::string choices = config::choices_of<Enum>();
  auto set = [&target, name](const std::string& word) {
    const std::optional<Enum> value = config::from_string<Enum>(word);
    if (!value)
      throw CLI::ValidationError(
          name, fmt::format("found \"{}\"; expected {}", word, config::choices_of<Enum>(", ", " or ")));
    target = *value;
  };
  CLI::Option* option = command.add_option_function<std::string>(name, set, description);
  return option->type_name(choices)->default_str(std::string(config::to_string(target)));
}

/// The same for an option that may be unset.
template <typename Enum>
CLI::Option* add_choice(CLI::App& command, const std::string& name, std::optional<Enum>& target, Enum fallback,
                        const std::string& description) {
  target.reset();
  auto set = [&target, name](const std::string& word) {
    target = config::from_string<Enum>(word);
    if (!target)
      throw CLI::ValidationError(
          name, fmt::format("found \"{}\"; expected {}", word, config::choices_of<Enum>(", ", " or ")));
  };
  CLI::Option* option = command.add_option_function<std::string>(name, set, description);
  return option->type_name(config::choices_of<Enum>())->default_str(std::string(config::to_string(fallback)));
}

/// --format, with the names of a table.
void add_format_option(CLI::App& command, std::optional<std::string>& format) {
  const std::vector<std::string> names = data::format_names();
  const auto check = [names](const std::string& name) {
    const bool is_known = std::find(names.begin(), names.end(), name) != names.end();
    return is_known ? "" : fmt::format("found \"{}\"; expected one of {}", name, fmt::join(names, ", "));
  };
  command.add_option("--format", format, "Format of all files; default: by the extension of each")
      ->check(CLI::Validator(check, "", ""))
      ->type_name(fmt::format("{}", fmt::join(names, "|")));
}

/// Line breaks and tabs, which are inconvenient to type in a shell: \n, \t, and \\ for a backslash before them.
std::string unescaped(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = text[i] == '\\' && i + 1 < text.size() ? text[i + 1] : '\0';
    const bool is_escape = next == 'n' || next == 't' || next == '\\';
    result += !is_escape ? text[i] : next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
    if (is_escape) ++i;
  }
  return result;
}

/// "/a/medical.dev.jsonl.gz" -> "medical.dev", as a valid source name.
std::string name_of_path(const std::string& path) {
  std::filesystem::path file = std::filesystem::path(path == "-" ? "stdin" : path).lexically_normal();
  if (path.starts_with('@')) file = path.substr(1);
  if (!file.has_filename()) file = file.parent_path();
  if (!io::compression_extension(file.string()).empty()) file.replace_extension();
  if (data::format_of_file(file) != nullptr) file.replace_extension();
  std::string name = file.filename().string().substr(0, 64);
  const auto allowed = [](char c) { return config::is_source_name("a" + std::string(1, c)); };
  std::replace_if(name.begin(), name.end(), [&](char c) { return !allowed(c); }, '_');
  return config::is_source_name(name) ? name : "data" + name.substr(0, 60);
}

/// Throws one ConfigError for all problems.
void check_options(const data::TextSource& source) {
  std::string problems;
  for (const data::SourceProblem& problem : data::option_problems(source)) {
    std::string option = problem.key;
    std::replace(option.begin(), option.end(), '_', '-');
    problems += fmt::format("{}--{}: {}", problems.empty() ? "" : "\n", option, problem.text);
  }
  if (!problems.empty()) throw ConfigError(problems);
}

struct NamedPath {
  std::string name;  // empty: none given
  std::string path;
};

/// Splits NAME=PATH, unless the whole argument is the name of a file or the part before '=' contains a slash.
NamedPath split_name(const std::string& option, const std::string& argument) {
  const auto equals = argument.find('=');
  if (equals == std::string::npos || std::filesystem::exists(argument)) return {"", argument};
  const std::string name = argument.substr(0, equals);
  if (name.find('/') != std::string::npos) return {"", argument};
  if (!config::is_source_name(name))
    throw ConfigError(
        "{} {}: found the name \"{}\"; expected 1 to 64 letters, digits, '.', '_' or '-', the first a letter or a "
        "digit",
        option, argument, name);
  return {name, argument.substr(equals + 1)};
}

}  // namespace

CLI::Option* add_model_option(CLI::App& command, std::string& model) {
  return command.add_option("--model", model, "Model directory, or a Hugging Face Hub id in the local cache")
      ->required()
      ->type_name("DIR");
}

CLI::Option* add_count_option(CLI::App& command, const std::string& name, std::int64_t& target, std::int64_t least,
                              std::int64_t most, const std::string& description) {
  const auto check = [least, most](const std::string& text) {
    std::int64_t value = 0;
    const bool is_good = CLI::detail::lexical_cast(text, value) && value >= least && value <= most;
    return is_good ? "" : fmt::format("found \"{}\"; expected a whole number from {} to {}", text, least, most);
  };
  return command.add_option(name, target, description)
      ->check(CLI::Validator(check, "", ""))
      ->type_name("N")
      ->capture_default_str();
}

CLI::Option* add_seq_len_option(CLI::App& command, std::int64_t& seq_len) {
  return add_count_option(command, "--seq-len", seq_len, 2, kMaxSequence, "Maximum sequence length, in tokens");
}

CLI::Option* add_batch_size_option(CLI::App& command, std::int64_t& batch_size) {
  return add_count_option(command, "--batch-size", batch_size, 1, kMaxSequence, "Sequences per forward pass");
}

CLI::Option* add_max_tokens_option(CLI::App& command, std::int64_t& max_tokens, const std::string& description) {
  return add_count_option(command, "--max-tokens", max_tokens, 0, kMaxTokens, description);
}

void add_compute_options(CLI::App& command, config::Compute& compute) {
  add_choice(command, "--dtype", compute.dtype,
             "Compute dtype; auto selects bf16 where the hardware multiplies it natively");
  add_choice(command, "--device", compute.device, "Device to compute on");
  add_count_option(command, "--threads", compute.threads, 0, 1024,
                   "Number of CPU threads; 0 uses all physical cores that the process may use");
  add_choice(command, "--kernels", compute.kernels,
             "fused: custom kernels; reference: plain PyTorch operations, for comparison");
}

CLI::Option* add_config_options(CLI::App& command, std::string& path, std::vector<std::string>& overrides) {
  command.add_option("--set", overrides, "Override a configuration key; repeatable")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  for (const char* key : {"dtype", "device", "threads", "kernels"})
    command.add_option_function<std::string>(
        fmt::format("--{}", key),
        [key, &overrides](const std::string& value) { overrides.push_back(fmt::format("{}={}", key, value)); },
        fmt::format("Same as --set {}=...", key));
  return command.add_option("config", path, "Run configuration; adept config --explain lists its keys")
      ->required()
      ->type_name("CONFIG.yaml");
}

void add_verify_flag(CLI::App& command, std::vector<std::string>& overrides) {
  command.add_flag_callback(
      "--verify", [&overrides] { overrides.emplace_back("data.verify=true"); },
      "Check all tokens and texts first; same as --set data.verify=true");
}

void add_continue_data_flag(CLI::App& command, std::vector<std::string>& overrides) {
  command.add_flag_callback(
      "--continue-data", [&overrides] { overrides.emplace_back("train.continue_data=true"); },
      "Start at the data position where the run that trained the model stopped; same as --set "
      "train.continue_data=true");
}

void add_allow_changed_option(CLI::App& command, data::OtherMixture& other) {
  command
      .add_option_function<std::string>(
          "--allow-changed", [&other](const std::string&) { other = data::OtherMixture::kAllowed; },
          "Continue a training although these inputs have changed. data: other sources, weights or limits; no source "
          "repeats what it has given")
      ->type_name("NAME")
      ->check(CLI::IsMember({"data"}));
}

void add_nproc_option(CLI::App& command, std::int64_t& nproc) {
  add_count_option(command, "--nproc", nproc, 1, 1024, "Number of processes on this machine that work together");
}

bool ran_in_processes(std::int64_t nproc) {
  if (nproc == 1) return false;
  if (const dist::Launch launch = dist::read_launch(); launch.size > 1)
    throw ConfigError(
        "--nproc: found {}, but this process is already one of {} (started by torchrun or srun); expected one of the "
        "two.",
        nproc, launch.size);
  const int exit_code = dist::run_local_processes(static_cast<int>(nproc), arguments_without("--nproc"));
  if (exit_code != 0) throw Error("", static_cast<ExitCode>(exit_code));
  return true;
}

void add_data_options(CLI::App& command, DataOptions& options) {
  command
      .add_option("--data", options.data,
                  "Text: files (text, JSON, CSV, Parquet, Arrow; text forms optionally .gz or .zst), directories, "
                  "globs, @FILE (a list of paths) or - (standard input); repeatable")
      ->required()
      ->type_name("[NAME=]PATH");
  add_text_options(command, options);
}

void add_text_options(CLI::App& command, DataOptions& options) {
  data::TextSource& source = options.source;
  add_format_option(command, source.format);
  command
      .add_option("--split", source.split, "Split to read of directories and globs, such as train; default: all files")
      ->type_name("NAME");
  command.add_option("--text-field", source.text_field, "Field of each record that holds the text, such as meta.text")
      ->type_name("FIELD")
      ->default_str(data::kDefaultTextField);
  const auto set_template = [&source](const std::string& text) { source.text_template = unescaped(text); };
  command
      .add_option_function<std::string>(
          "--template", set_template,
          "Instead of --text-field: text with fields in braces, such as \"{question}\\n{answer}\"")
      ->type_name("TEMPLATE");
  command
      .add_option("--messages-field", source.messages_field,
                  "Instead of --text-field: field with the messages of a conversation, for the model's chat template")
      ->type_name("FIELD");
  add_choice(command, "--train-on", source.train_on,
             "Tokens of conversations that are trained on and measured: all, or those of the answers of the assistant");
  add_choice(command, "--txt-record", source.txt_record, data::TxtRecord::kFile,
             "What counts as one document in a text file");
  add_choice(command, "--on-bad-record", source.on_bad_record,
             "How to handle invalid records: fail stops, skip counts and skips them");
}

std::vector<data::TextSource> sources(const DataOptions& options) {
  check_options(options.source);
  std::vector<data::TextSource> result;
  std::map<std::string, bool> name_was_given;
  for (const std::string& argument : options.data) {
    const auto [given_name, path] = split_name(options.option, argument);
    if (path.empty()) throw ConfigError("{} {}: found an empty path; expected [NAME=]PATH", options.option, argument);
    const std::string name = given_name.empty() ? name_of_path(path) : given_name;
    const auto [known, is_new] = name_was_given.try_emplace(name, !given_name.empty());
    if (is_new) {
      result.push_back(options.source);
      result.back().name = name;
      result.back().paths = {path};
      continue;
    }
    if (!known->second || given_name.empty())
      throw ConfigError(
          "{0} {1}: the name \"{2}\" is already used by another {0}; name each source, as in {0} NAME={3}",
          options.option, argument, name, path);
    const auto same = [&](const data::TextSource& source) { return source.name == name; };
    std::find_if(result.begin(), result.end(), same)->paths.push_back(path);
  }
  return result;
}

std::vector<data::TextSource> sources(DataOptions options, const std::string& option,
                                      const std::vector<std::string>& data) {
  options.option = option;
  options.data = data;
  return sources(options);
}

namespace {

/// What can be read once is not text for several processes.
void check_not_stream(const std::filesystem::path& path) {
  if (const int size = dist::world().size(); size > 1 && io::is_stream(path))
    throw ConfigError("{}: is read by each of the {} processes, but can be read once; expected the path of a file.",
                      path.string(), size);
}

}  // namespace

void check_data(const std::vector<data::TextSource>& sources, const std::string& out) {
  std::string problems;
  for (const data::TextSource& source : sources) {
    try {
      for (const std::string& path : source.paths)
        if (path.starts_with('@')) check_not_stream(path.substr(1));
      const data::SourceFiles found = data::find_files(source);
      for (const std::filesystem::path& file : found.files) check_not_stream(file);
      for (const std::string& warning : found.warnings) log_common_warning("{}", warning);
      if (!out.empty()) data::check_not_read(source, out, "--out");
    } catch (const ConfigError& error) {
      problems += (problems.empty() ? "" : "\n") + std::string(error.what());
    }
  }
  if (!problems.empty()) throw ConfigError(problems);
}

void check_output_is_not_of_model(const std::string& out, const std::filesystem::path& model_dir) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (fs::is_regular_file(out, ignored) && run::is_in(out, model_dir))
    throw ConfigError("--out {}: would overwrite a file of the model {}; expected a different path.", out,
                      model_dir.string());
}

std::vector<double> parse_numbers(const std::string& option, const std::string& text, bool (*is_good)(double),
                                  const std::string& expected) {
  std::vector<double> numbers;
  std::istringstream items(text + ",");
  for (std::string item; std::getline(items, item, ',');) {
    double number = 0;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), number);
    if (error != std::errc() || end != item.data() + item.size() || !is_good(number))
      throw ConfigError("{} {}: found \"{}\"; expected {}.", option, text, item, expected);
    numbers.push_back(number);
  }
  return numbers;
}

void require_utf8(const std::string& option, const std::string& text) {
  if (const std::string problem = foreign_encoding_problem(text); !problem.empty())
    throw ConfigError("{}: {}", option, problem);
  if (const auto at = data::find_invalid_utf8(text))
    throw ConfigError("{}: found an invalid UTF-8 byte at offset {}; expected UTF-8 text.", option, *at);
}

void check_output_directory(const std::string& out, const std::vector<std::filesystem::path>& inputs, bool force) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path target = fs::weakly_canonical(out, ignored);
  for (const fs::path& input : inputs) {
    const fs::path relative = fs::weakly_canonical(input, ignored).lexically_relative(target);
    if (relative == ".")
      throw ConfigError("--out {}: is {}; expected a separate directory.", out,
                        input == inputs.front() ? "the model directory" : "an input");
    if (!relative.empty() && *relative.begin() != "..")
      throw ConfigError("--out {}: contains the input {}, which would be lost; expected a separate directory.", out,
                        input.string());
  }
  if (!fs::exists(target, ignored)) return;
  if (!force) throw DataError("{}: already exists; remove it, or pass --force to replace it.", out);
  const bool is_empty = fs::is_directory(target, ignored) && fs::is_empty(target, ignored);
  if (!is_empty && !fs::exists(target / "config.json", ignored))
    throw DataError(
        "--out {}: is not a model directory (no config.json), so --force does not replace it. Remove it or choose "
        "another path.",
        out);
}

}  // namespace adept::cli
