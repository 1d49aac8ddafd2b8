#include "adept/plan/plan.h"

#include <algorithm>
#include <optional>

#include "adept/core/error.h"
#include "adept/core/function_ref.h"
#include "adept/model/load.h"
#include "adept/plan/costs.h"
#include "adept/plan/layout.h"
#include "adept/plan/step_memory.h"
#include "adept/train/methods.h"

namespace adept::plan {
namespace {

constexpr std::int64_t kMostBatch = 1 << 16;  // of train.batch_size
constexpr double kUsable = 0.93;              // the rest is for the libraries, the allocator's gaps and the system

std::int64_t usable_bytes(const PlanOptions& options) {
  const auto of_device = static_cast<std::int64_t>(kUsable * static_cast<double>(options.machine.memory));
  return options.machine.is_this_one ? of_device / options.ranks : of_device;
}

void find_largest_batch(Plan& plan, FunctionRef<std::int64_t(std::int64_t batch_size)> peak) {
  for (std::int64_t step = kMostBatch; step > 0; step /= 2)
    if (plan.largest_batch + step <= kMostBatch && peak(plan.largest_batch + step) <= plan.usable)
      plan.largest_batch += step;
  if (plan.largest_batch > 0) plan.largest_batch_peak = peak(plan.largest_batch);
}

void advise_smaller_measurements(Plan& plan) {
  for (const StageMemory& stage : plan.measuring) {
    if (stage.peak <= plan.usable || stage.peak_of_one == stage.peak) continue;
    const std::string change = stage.batch_key + ": 1";
    auto known = std::ranges::find(plan.advice, change, &Advice::change);
    if (known == plan.advice.end()) known = plan.advice.insert(known, {.change = change});
    known->peak = std::max(known->peak, stage.peak_of_one);
  }
}

}  // namespace

const StageMemory* Plan::stage_of_peak() const {
  const auto most = std::ranges::max_element(measuring, {}, &StageMemory::peak);
  return most == measuring.end() || most->peak <= memory.peak ? nullptr : &*most;
}

std::int64_t Plan::peak() const {
  const StageMemory* stage = stage_of_peak();
  return stage == nullptr ? memory.peak : stage->peak;
}

double Plan::hours() const {
  double seconds = training_seconds();
  for (const StageTime& stage : measuring_time) seconds += stage.total();
  return seconds / 3600;
}

Plan make_plan(const config::RunConfig& config, const std::filesystem::path& model_dir, const PlanOptions& options) {
  const model::ModelConfig base = model::read_model_config(model_dir);
  const io::WeightFiles files = model::open_weights(base, model_dir);
  Plan plan;
  plan.ranks = options.ranks;
  plan.steps = options.steps;
  plan.usable = usable_bytes(options);
  plan.copied = copied_layers(config, base, model_dir);
  const std::vector<int>& after = plan.copied.after;
  train::check_method(config, base, model_dir);
  if (config.dist.shard_base && options.ranks == 1)
    throw ConfigError("dist.shard_base: found true for one rank; expected several (--gpus), or false.");
  const bool is_here = options.machine.is_this_one;
  const Communication communication = {.by_gloo = is_here, .is_deterministic = config.dist.deterministic};
  const Layout layout(config, base, files, after, options.ranks);
  Rehearsals rehearsals(config, base, layout, {.is_timed = is_here, .for_gpu = !is_here});
  const Costs costs = rehearsals.of(layout);
  const auto memory = [&](std::int64_t batch_size) {
    return memory_of(layout, costs, communication, batch_size * config.seq_len, config.train.grad_accum);
  };
  plan.parameters = model::num_parameters(layout.decoder().config());
  plan.trained_parameters = layout.trainable().num_parameters();
  plan.tokens_per_step = config.train.batch_size * config.train.grad_accum * config.seq_len * options.ranks;
  plan.flops_per_step = necessary_flops(layout, config);
  plan.memory = memory(config.train.batch_size);
  plan.traffic = traffic_of(layout, config);
  plan.time = time_of(layout, config, costs, options.machine);
  if (plan.copied.is_assumed()) {
    const Layout least(config, base, files, plan.copied.highest, options.ranks);
    const Costs its_costs = rehearsals.of(least);
    const std::int64_t tokens = config.train.batch_size * config.seq_len;
    plan.least_peak = memory_of(least, its_costs, communication, tokens, config.train.grad_accum).peak;
    plan.least_seconds = time_of(least, config, its_costs, options.machine).total();
  }
  find_largest_batch(plan, [&](std::int64_t batch_size) { return memory(batch_size).peak; });
  const PlannedTraining training = {.config = config,
                                    .base = base,
                                    .files = files,
                                    .after = after,
                                    .layout = layout,
                                    .costs = costs,
                                    .memory = plan.memory,
                                    .communication = communication,
                                    .is_exact = is_here};
  plan.measuring = measuring_memory(training);
  plan.measuring_time = measuring_time(training, rehearsals, options.machine, options.text, options.steps);
  if (plan.memory.peak > plan.usable)
    plan.advice = Adviser({.config = config,
                           .base = base,
                           .files = files,
                           .after = after,
                           .costs = costs,
                           .communication = communication,
                           .ranks = options.ranks,
                           .usable = plan.usable,
                           .has_devices = !is_here})
                      .advise();
  advise_smaller_measurements(plan);
  return plan;
}

}  // namespace adept::plan
