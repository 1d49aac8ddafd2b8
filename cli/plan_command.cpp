#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adept/io/atomic_file.h"
#include "adept/plan/plan.h"
#include "adept/run/inspect.h"
#include "adept/run/model_context.h"
#include "adept/run/preflight.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

struct PlanCommandOptions {
  std::string path, machine = "cpu", out;
  std::vector<std::string> overrides;
  std::int64_t gpus = 1, tokens = 0;
};

void check_output_is_no_input(const PlanCommandOptions& options, const config::RunConfig& config) {
  if (options.out.empty()) return;
  std::error_code ignored;
  for (const auto& [file, name] :
       {std::pair(options.path, "configuration"), std::pair(options.machine, "machine file")})
    if (std::filesystem::equivalent(options.out, file, ignored))
      throw ConfigError("--out {}: is the {}; expected a separate path.", options.out, name);
  const auto check = [&](const auto& sources) {
    for (const data::TextSource& source : sources) data::check_not_read(source, options.out, "--out");
  };
  check(config.data.train);
  check(config.data.replay);
  check(config.data.general);
  check(config.data.eval);
}

void plan(PlanCommandOptions& options) {
  config::RunConfig config = config::load_run_config(options.path, options.overrides);
  const plan::Machine machine = plan::find_machine(options.machine);
  check_output_is_no_input(options, config);
  std::optional<io::AtomicFile> out;  // opened now, so an unwritable path fails at once
  if (!options.out.empty()) out.emplace(options.out, io::SpecialFile::kWriteThrough);
  if (!machine.is_this_one) {
    // On a GPU, auto is what a GPU multiplies natively.
    if (config.compute.dtype == config::DTypeChoice::kAuto) config.compute.dtype = config::DTypeChoice::kBf16;
    config.compute.device = config::Device::kCpu;  // of the rehearsal; the plan is for the other machine's
  }
  run::init_compute(config.compute);
  const std::filesystem::path model_dir = run::check_files(config, config::Purpose::kRun).dir;
  check_output_is_not_of_model(options.out, model_dir);
  const train::TrainOptions& train = config.train;
  const std::int64_t per_step = train.batch_size * train.grad_accum * options.gpus;
  const auto steps_of = [&](std::int64_t sequences) { return (sequences + per_step - 1) / per_step; };
  const std::int64_t steps = options.tokens > 0 ? steps_of((options.tokens + config.seq_len - 1) / config.seq_len)
                             : train.max_steps  ? *train.max_steps
                                                : steps_of(run::training_sequences(config));
  const plan::Plan plan =
      plan::make_plan(config, model_dir,
                      {.machine = machine, .ranks = options.gpus, .steps = steps, .text = run::measured_text(config)});
  fmt::print("{}", plan::describe(plan, config, machine));
  if (out) {
    out->write(plan::to_json(plan, machine).dump(2) + "\n");
    out->commit();
  }
}

std::string machine_names() {
  std::string names = "cpu (this machine), ";
  for (const plan::Machine& machine : plan::known_machines()) names += machine.name + ", ";
  return names + "or a JSON file";
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto options = std::make_shared<PlanCommandOptions>();
  CLI::App* command = app.add_subcommand(
      "plan", "Predict the memory, time and cost of a run, and the largest batch that fits, without training");
  add_config_options(*command, options->path, options->overrides);
  add_count_option(*command, "--gpus", options->gpus, 1, 1 << 16, "Number of devices: ranks of the training");
  command->add_option("--gpu", options->machine, "Device: " + machine_names())
      ->type_name("NAME|FILE")
      ->capture_default_str();
  add_count_option(*command, "--tokens", options->tokens, 0, std::int64_t{1} << 50,
                   "Training tokens of the run; 0: train.max_steps, or those of the text, which is tokenized");
  command->add_option("--out", options->out, "Also write the plan to this JSON file")->type_name("FILE");
  command->callback([options] { plan(*options); });
}

}  // namespace adept::cli
