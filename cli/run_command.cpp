#include <memory>

#include "adept/core/log.h"
#include "adept/run/pipeline.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct RunOptions {
  std::string path;
  std::vector<std::string> overrides;
  std::int64_t nproc = 1;
  data::OtherMixture other_mixture = data::OtherMixture::kRefused;
};

}  // namespace

void add_run_command(CLI::App& app) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      app.add_subcommand("run", "Run the whole pipeline in one directory: probe, expand, train, export, evaluate");
  add_config_options(*command, options->path, options->overrides);
  add_continue_data_flag(*command, options->overrides);
  add_verify_flag(*command, options->overrides);
  add_allow_changed_option(*command, options->other_mixture);
  add_nproc_option(*command, options->nproc);
  command->callback([options] {
    if (options->nproc > 1) set_quiet();  // the first of the processes says it
    const config::RunConfig config = config::load_run_config(options->path, options->overrides);
    if (!ran_in_processes(options->nproc)) run::run_pipeline(config, options->other_mixture);
  });
}

}  // namespace adept::cli
