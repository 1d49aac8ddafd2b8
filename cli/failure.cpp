#include "cli/failure.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <filesystem>
#include <new>
#include <string_view>
#include <system_error>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/nearest_name.h"

namespace adept::cli {
namespace {

std::string first_line(std::string_view text) {
  const auto begin = text.find_first_not_of("\r\n ");
  if (begin == std::string_view::npos) return "no message";
  return std::string(text.substr(begin, text.find('\n', begin) - begin));
}

/// The CPU allocator throws a plain c10::Error, which only its message identifies.
bool is_out_of_memory(const c10::Error& error) {
  const std::string_view message = error.what_without_backtrace();
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         message.find("can't allocate memory") != std::string_view::npos ||
         message.find("out of memory") != std::string_view::npos;
}

Failure out_of_memory(const std::string& detail) {
  return {static_cast<int>(ExitCode::kOutOfMemory),
          fmt::format("out of memory: {}. Use a smaller batch size or sequence length, or dtype bf16.", detail)};
}

/// Long option names and subcommand names that are valid where parsing stopped.
std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

std::string suggestion(const std::string& word, const std::vector<std::string>& candidates) {
  const std::string nearest = nearest_name(word, candidates);
  return nearest.empty() ? "." : fmt::format("; did you mean \"{}\"?", nearest);
}

/// "Could not convert: --layers = x" is CLI11's whole message; the options that it converts are numbers.
std::string conversion_problem(const std::string& text) {
  const auto colon = text.find(": "), equals = text.find(" = ");
  if (colon == std::string::npos || equals == std::string::npos || equals < colon) return text;
  return fmt::format("{}: found \"{}\"; expected a number in range", text.substr(colon + 2, equals - colon - 2),
                     text.substr(equals + 3));
}

}  // namespace

Failure describe_failure(std::exception_ptr exception) {
  constexpr int kFailure = static_cast<int>(ExitCode::kFailure);
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return {static_cast<int>(error.exit_code()), error.what()};
  } catch (const InternalError& error) {
    return {kFailure, error.what()};
  } catch (const std::bad_alloc&) {
    return out_of_memory("host memory is exhausted");
  } catch (const c10::Error& error) {
    const std::string line = first_line(error.what_without_backtrace());
    return is_out_of_memory(error) ? out_of_memory(line) : Failure{kFailure, "libtorch: " + line};
  } catch (const std::filesystem::filesystem_error& error) {
    return {kFailure, system_error(error.path1(), "use", error.code().value()).what()};
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::resource_unavailable_try_again)
      return {kFailure,
              "cannot create a thread or process: the limit on processes and threads is reached (ulimit -u, or the "
              "pids limit of a container). Raise the limit, or use fewer --threads."};
    return {kFailure, first_line(error.what())};
  } catch (const std::exception& error) {
    return {kFailure, fmt::format("{} (unexpected: please report this)", first_line(error.what()))};
  } catch (...) {
    return {kFailure, "an exception of unknown type (please report this)"};
  }
}

Failure describe_usage_error(const CLI::App& app, const CLI::ParseError& error, int argc, const char* const* argv) {
  constexpr int kUsage = static_cast<int>(ExitCode::kUsage);
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  if (chosen.empty()) {
    const std::string word = argc > 1 ? argv[1] : "";
    std::vector<std::string> names = option_names(app);
    for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
      names.push_back(command->get_name());
    return {kUsage, fmt::format("unknown {} \"{}\"{} See: adept --help", word.starts_with('-') ? "option" : "command",
                                word, suggestion(word, names))};
  }
  const CLI::App& command = *chosen.front();
  const std::string hint = fmt::format("See: adept {} --help", command.get_name());
  for (const std::string& word : app.remaining(true)) {
    if (!word.starts_with('-')) continue;
    const std::string name = word.substr(0, word.find('='));
    return {kUsage, fmt::format("unknown option \"{}\" of adept {}{} {}", name, command.get_name(),
                                suggestion(name, option_names(command)), hint)};
  }
  std::string problem = error.what();
  const std::vector<std::string> stray = app.remaining(true);
  if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr && !stray.empty()) {
    const bool overrides =
        stray.front().find('=') != std::string::npos && command.get_option_no_throw("--set") != nullptr;
    const bool has_positional = !command.get_options([](const CLI::Option* o) { return o->get_positional(); }).empty();
    problem = fmt::format("found \"{}\"; expected {}", stray.front(),
                          overrides        ? "--set before each KEY=VALUE"
                          : has_positional ? "no further argument"
                                           : "options only");
  }
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr)
    problem = problem.substr(0, problem.find(':')) + ": found several values; expected one";
  if (problem.ends_with('.')) problem.pop_back();
  if (dynamic_cast<const CLI::ConversionError*>(&error) != nullptr) problem = conversion_problem(problem);
  return {kUsage, fmt::format("adept {}: {}. {}", command.get_name(), problem, hint)};
}

}  // namespace adept::cli
