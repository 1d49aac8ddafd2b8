#include "cli/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <system_error>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/core/standard_streams.h"
#include "adept/core/version_info.h"
#include "adept/dist/launch.h"
#include "adept/dist/process_group.h"
#include "cli/commands.h"
#include "cli/failure.h"

namespace adept::cli {
namespace {

std::string version() {
  return fmt::format("adept {} (commit {}, torch {}, {})", kVersion, kCommit, kTorchVersion, kCompiler);
}

void print_to(std::FILE* file, const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), file);  // lost_output reports failures
}

/// A full disk or a closed pipe is a failure, whatever else succeeded. After a closed pipe there is no one to report it
/// to.
Failure lost_output(int error_number) {
  if (error_number == EPIPE) return {128 + SIGPIPE, ""};
  return {static_cast<int>(ExitCode::kFailure),
          fmt::format("standard output: cannot write: {}. Nothing else failed; files that were written are complete.",
                      std::generic_category().message(error_number))};
}

int report(const Failure& failure) {
  if (!failure.message.empty()) print_to(stderr, rank_prefix() + "error: " + failure.message + "\n");
  return failure.exit_code;
}

/// Reports a failure to the user and to the other processes of the job.
int end_with(const Failure& failure) {
  report(failure);
  dist::fail(failure.message, failure.exit_code);
  return failure.exit_code;
}

// How long a process that is of no use to its job tries to tell the others, and one that was asked for help.
constexpr std::chrono::seconds kUntilOthersKnow(10), kUntilOthersKnowOfHelp(5);

/// Reads which process of a job this one is. What goes wrong from here on ends all processes of the job.
dist::Launch take_place_in_job(std::chrono::seconds patience) {
  try {
    const dist::Launch launch = dist::read_launch();
    dist::expect_to_join(launch, patience);
    return launch;
  } catch (const dist::LaunchError& error) {
    dist::expect_to_join(error.known(), std::min(patience, kUntilOthersKnow));
    throw;
  }
}

/// Only commands with --nproc divide their work; the processes of another one would all do the whole work, and write
/// the same files. Scripts call config, completion and --version before a command that works, so these are not part of
/// a job.
void require_command_for_job(const CLI::App& app, int argc, char** argv) {
  const std::string_view name = argc > 1 ? argv[1] : "";
  if (name == "config" || name == "completion" || name == "--version") return;
  const auto asks_for_help = [](std::string_view word) { return word == "-h" || word == "--help"; };
  if (std::any_of(argv + 1, argv + argc, asks_for_help)) {
    try {
      take_place_in_job(kUntilOthersKnowOfHelp);
    } catch (const dist::LaunchError&) {  // needs no good variables
    }
    return;
  }
  const auto commands = app.get_subcommands([&](const CLI::App* command) { return command->get_name() == name; });
  const bool divides = !commands.empty() && commands.front()->get_option_no_throw("--nproc") != nullptr;
  const dist::Launch launch = take_place_in_job(divides ? dist::kUntilOthersCome : kUntilOthersKnow);
  if (launch.size == 1 || commands.empty() || divides) return;
  throw ConfigError(
      "adept {}: found process {} of {} (RANK and WORLD_SIZE, or Slurm's variables); expected one process, because "
      "this command does not divide its work. Start it without torchrun, with srun --ntasks 1, or inside a job with "
      "`env -u RANK -u WORLD_SIZE adept {} ...`. `adept run`, `adept train`, `adept probe` and `adept eval` "
      "divide theirs.",
      name, launch.rank, launch.size, name);
}

/// Help in place of the command that the other processes of a job wait for.
void end_job_of_help() {
  std::fflush(stdout);
  dist::fail("it printed help only; expected the command of the other processes.", static_cast<int>(ExitCode::kUsage));
}

/// The option with an empty value, for example from an unset shell variable; CLI11 would read it as 0.
std::string option_without_value(int argc, char** argv) {
  for (int i = 2; i < argc; ++i) {
    const std::string_view word = argv[i], option = word.empty() ? argv[i - 1] : word;
    if (!option.starts_with("--") || !(word.empty() || word.ends_with('='))) continue;
    const std::string_view name = option.substr(0, option.find('='));
    if (name != "--prompt" && name != "--text" && name != "--system") return std::string(name);
  }
  return "";
}

int run(int argc, char** argv) {
  CLI::App app{
      "Continual pretraining of language models with ADEPT: copy the least important layers, train only the copies",
      "adept"};
  app.set_version_flag("--version", version(), "Print the version, the commit and the library versions");
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(36);
  for (AddCommand add_command : kCommands) add_command(app);
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; }))
    command->add_flag_callback("-q,--quiet", set_quiet, "Show only errors, warnings and results")->trigger_on_parse();
  try {
    if (argc <= 1) print_to(stderr, app.help());
    require_command_for_job(app, argc, argv);
    if (argc <= 1) {
      end_job_of_help();
      return static_cast<int>(ExitCode::kUsage);
    }
    if (const std::string option = option_without_value(argc, argv); !option.empty())
      throw ConfigError("adept {}: {}: found an empty value; expected one. See: adept {} --help", argv[1], option,
                        argv[1]);
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    print_to(stdout, app.help());
    end_job_of_help();
  } catch (const CLI::CallForVersion&) {
    print_to(stdout, version() + "\n");
  } catch (const CLI::ParseError& error) {
    return end_with(describe_usage_error(app, error, argc, argv));
  }
  std::fflush(stdout);
  if (const int error_number = output_error(); error_number != 0) {
    if (error_number == EINTR) throw_if_interrupted();
    return report(lost_output(error_number));
  }
  return static_cast<int>(ExitCode::kOk);
}

}  // namespace

void run_program(int argc, char** argv) {
  open_standard_streams();
  int exit_code = 0;
  try {
    init_logging();
    install_signal_handlers();
    exit_code = run(argc, argv);
    dist::world().leave();
  } catch (...) {
    exit_code = end_with(describe_failure(std::current_exception()));
  }
  // Skips libtorch's destructors, a third of a short command's time. Everything of adept's own ended with run().
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

}  // namespace adept::cli
