#include <memory>

#include "adept/core/log.h"
#include "adept/run/pipeline.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct TrainOptions {
  std::string path;
  std::vector<std::string> overrides;
  std::int64_t nproc = 1;
  bool resume = false;
  data::OtherMixture other_mixture = data::OtherMixture::kRefused;
};

}  // namespace

void add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* command = app.add_subcommand(
      "train", "Train an expanded model, or any model with another method, then export and evaluate it");
  add_config_options(*command, options->path, options->overrides);
  add_continue_data_flag(*command, options->overrides);
  add_verify_flag(*command, options->overrides);
  add_allow_changed_option(*command, options->other_mixture);
  add_nproc_option(*command, options->nproc);
  command->add_flag("--resume", options->resume, "Resume from the newest checkpoint in output_dir");
  command->callback([options] {
    if (options->nproc > 1) set_quiet();  // the first of the processes says it
    const config::RunConfig config =
        config::load_run_config(options->path, options->overrides, config::Purpose::kTrain);
    if (!ran_in_processes(options->nproc)) run::run_training(config, options->resume, options->other_mixture);
  });
}

}  // namespace adept::cli
