#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/error.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct Options {
  std::string path;
  std::vector<std::string> overrides;
  bool explain = false;
};

void run(const Options& options) {
  if (options.explain)
    fmt::print("{}", config::explain());
  else if (options.path.empty())
    throw ConfigError("adept config: expected CONFIG.yaml or --explain. See: adept config --help");
  else
    fmt::print("{}", config::to_yaml(config::load_run_config(options.path, options.overrides)));
}

}  // namespace

void add_config_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("config", "Check a run configuration and print it with all its defaults");
  add_config_options(*command, options->path, options->overrides)->required(false);
  command->add_flag("--explain", options->explain, "Print every key: type, default, unit, meaning");
  command->callback([options] { run(*options); });
}

}  // namespace adept::cli
