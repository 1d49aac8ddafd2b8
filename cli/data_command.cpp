#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "adept/run/inspect.h"
#include "adept/run/model_context.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct DataInspectOptions {
  std::string action;
  std::string path;
  std::vector<std::string> overrides;
  run::InspectOptions inspect;
};

void inspect(DataInspectOptions& options) {
  config::RunConfig config = config::load_run_config(options.path, options.overrides);
  run::init_compute(config.compute);
  const char* no_color = std::getenv("NO_COLOR");  // https://no-color.org
  options.inspect.color = ::isatty(STDOUT_FILENO) != 0 && (no_color == nullptr || *no_color == '\0');
  run::inspect_data(config, options.inspect);
}

}  // namespace

void add_data_command(CLI::App& app) {
  auto options = std::make_shared<DataInspectOptions>();
  CLI::App* command = app.add_subcommand(
      "data", "Print what a configuration trains on: statistics of each source, the mixture, the first sequences");
  command->add_option("ACTION", options->action, "inspect")
      ->type_name("")
      ->required()
      ->check(CLI::IsMember({"inspect"}));
  add_config_options(*command, options->path, options->overrides);
  command->add_option("--sequences", options->inspect.sequences, "Sequences of the first step to print")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 32))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--document-bytes", options->inspect.document_bytes, "Bytes of each document to print; 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str();
  command->callback([options] { inspect(*options); });
}

}  // namespace adept::cli
