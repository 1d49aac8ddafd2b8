#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/error.h"
#include "adept/run/preflight.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct ConfigOptions {
  std::string path;
  std::vector<std::string> overrides;
  std::vector<std::string> keys;  // to explain; empty: all
};

/// Width of the terminal, or a common width if standard output is none.
std::size_t output_width() {
  winsize size = {};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

void explain(const std::vector<std::string>& keys) {
  fmt::print("{}", keys.empty() ? config::explain(output_width()) : config::explain(keys, output_width()));
}

void check_and_print(const ConfigOptions& options) {
  if (options.path.empty())
    throw ConfigError("adept config: expected CONFIG.yaml or --explain. See: adept config --help");
  const config::RunConfig config = config::load_run_config(options.path, options.overrides);
  run::check_files(config, config::Purpose::kRun);
  fmt::print("{}", config::to_yaml(config));
}

}  // namespace

void add_config_command(CLI::App& app) {
  auto options = std::make_shared<ConfigOptions>();
  CLI::App* command = app.add_subcommand(
      "config", "Validate a run configuration, including its model and texts, and print it with all defaults");
  add_config_options(*command, options->path, options->overrides)->required(false);
  const CLI::Option* explained =
      command
          ->add_option("--explain", options->keys,
                       "List all keys in a table; with KEY (a key or a section), describe it in full")
          ->type_name("[KEY]")
          ->expected(0, -1);
  command->callback([options, explained] {
    std::erase(options->keys, "");  // CLI11 passes this for an option without a value
    explained->count() > 0 ? explain(options->keys) : check_and_print(*options);
  });
}

}  // namespace adept::cli
