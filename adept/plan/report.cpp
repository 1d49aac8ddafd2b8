#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "adept/core/progress.h"
#include "adept/plan/plan.h"

namespace adept::plan {
namespace {

std::string seconds_text(double seconds) {
  if (seconds >= 100) return format_duration(seconds);
  return seconds >= 1 ? fmt::format("{:.1f} s", seconds) : fmt::format("{:.0f} ms", 1e3 * seconds);
}

std::string bytes_text(double bytes) { return format_bytes(static_cast<std::int64_t>(bytes)); }

/// The sections of describe().
class Report {
 public:
  Report(const Plan& plan, const config::RunConfig& config, const Machine& machine)
      : plan_(plan), config_(config), machine_(machine) {}

  std::string write() {
    text_ = fmt::format("{} x {}: {}\n", plan_.ranks, machine_.name, machine_.meaning);
    add_model();
    add_memory();
    add_time();
    add_run();
    return std::move(text_);
  }

 private:
  void line(std::string_view name, const std::string& value) {
    text_ += fmt::format("  {:<16}{}{}\n", name, name.size() < 16 ? "" : " ", value);
  }
  void section(std::string_view name) { text_ += fmt::format("\n{}\n", name); }

  void add_model() {
    line("model",
         fmt::format("{} parameters, {} trained ({:.1f} %)", format_count(plan_.parameters),
                     format_count(plan_.trained_parameters),
                     100.0 * static_cast<double>(plan_.trained_parameters) / static_cast<double>(plan_.parameters)));
    add_copies();
    line("step",
         fmt::format("{} sequences x {} tokens x {} micro-batches x {} ranks = {} tokens", config_.train.batch_size,
                     config_.seq_len, config_.train.grad_accum, plan_.ranks, format_count(plan_.tokens_per_step)));
  }

  void add_copies() {
    const CopiedLayers& copied = plan_.copied;
    if (copied.after.empty()) return;
    line("copies", fmt::format("after layers {}{}", fmt::join(copied.after, ", "),
                               copied.is_assumed() ? " (assumed: the probe will choose, and these cost most)" : ""));
    if (!copied.is_assumed()) return;
    line("", fmt::format("after layers {}, which cost least: {}, {} a step", fmt::join(copied.highest, ", "),
                         format_bytes(plan_.least_peak), seconds_text(plan_.least_seconds)));
    line("", "expand.after, or a finished probe in output_dir, makes the plan exact");
  }

  void add_memory() {
    section("memory of a rank");
    const train::MemoryUse& memory = plan_.memory;
    const std::pair<std::string_view, std::int64_t> parts[] = {
        {"weights", memory.weights},     {"masters", memory.masters},         {"moments", memory.moments},
        {"gradients", memory.gradients}, {"activations", memory.activations}, {"work space", memory.work_space}};
    for (const auto& [name, bytes] : parts)
      if (bytes > 0) line(name, fmt::format("{:>10}", format_bytes(bytes)));
    line("peak", fmt::format("{:>10} of {}: {}", format_bytes(memory.peak), format_bytes(plan_.usable),
                             memory.peak <= plan_.usable ? "fits" : "does not fit"));
    add_measuring();
    for (const Advice& advice : plan_.advice)
      line("", fmt::format("with {}: {}{}", advice.change, format_bytes(advice.peak),
                           advice.peak <= plan_.usable ? ", fits" : ", does not fit"));
    line("largest batch", plan_.largest_batch == 0 ? "none fits"
                                                   : fmt::format("train.batch_size: {} ({})", plan_.largest_batch,
                                                                 format_bytes(plan_.largest_batch_peak)));
  }

  void add_measuring() {
    std::vector<std::string> stages;
    for (const StageMemory& stage : plan_.measuring)
      stages.push_back(fmt::format("{} {}", stage.name, format_bytes(stage.peak)));
    if (stages.empty()) return;
    line("other stages", fmt::format("{}", fmt::join(stages, ", ")));
    if (const StageMemory* stage = plan_.stage_of_peak())
      line("peak of the run",
           fmt::format("{:>10} of {}, in {}: {}", format_bytes(stage->peak), format_bytes(plan_.usable), stage->name,
                       plan_.fits() ? "fits" : "does not fit"));
  }

  void add_time() {
    section("time of a step");
    const StepTime& time = plan_.time;
    line("layers", seconds_text(time.layers));
    line("head and loss", seconds_text(time.head));
    line("update", seconds_text(time.update));
    if (plan_.ranks > 1) add_communication();
    const double tokens_per_second = static_cast<double>(plan_.tokens_per_step) / time.total();
    line("total",
         fmt::format("{}, {} tokens/s{}", seconds_text(time.total()),
                     format_count(static_cast<std::int64_t>(tokens_per_second)),
                     machine_.is_this_one ? " (measured parts)"
                                          : fmt::format(" (assumed: {:.0f} % of the peak rate of matrix products)",
                                                        100 * machine_.efficiency)));
  }

  void add_communication() {
    line("communication",
         fmt::format("{}, {} sent by each rank (its overlap with the backward pass is not counted)",
                     plan_.time.communication > 0 ? seconds_text(plan_.time.communication) : "time not known",
                     bytes_text(plan_.traffic.reduced)));
    if (plan_.traffic.gathered > 0)
      line("",
           fmt::format("divided layers: each rank sends and receives {} in {} micro-batches, while layers are computed",
                       bytes_text(plan_.traffic.gathered), config_.train.grad_accum));
    if (machine_.is_this_one)
      line("", "the ranks share this machine's cores, all of which were measured at once: a step takes longer");
  }

  void add_run() {
    section("run");
    line("training",
         fmt::format("{} steps, {} tokens: {}", format_count(plan_.steps),
                     format_count(plan_.steps * plan_.tokens_per_step), format_duration(plan_.training_seconds())));
    for (const StageTime& stage : plan_.measuring_time)
      line(stage.name, fmt::format("{}{} tokens: {}", stage.times > 1 ? fmt::format("{} x ", stage.times) : "",
                                   format_count(stage.positions), seconds_text(stage.total())));
    if (!plan_.measuring_time.empty()) line("total", format_duration(3600 * plan_.hours()));
    const bool has_price = machine_.price_per_hour > 0;
    if (plan_.ranks > 1 || has_price) line("devices", fmt::format("{:.1f} hours", plan_.device_hours()));
    if (has_price) line("cost", fmt::format("{:.2f}", plan_.device_hours() * machine_.price_per_hour));
  }

  const Plan& plan_;
  const config::RunConfig& config_;
  const Machine& machine_;
  std::string text_;
};

}  // namespace

Json to_json(const Plan& plan, const Machine& machine) {
  Json advice = Json::array();
  for (const Advice& a : plan.advice)
    advice.push_back({{"change", a.change}, {"memory_bytes", a.peak}, {"fits", a.peak <= plan.usable}});
  Json measuring = Json::object();
  for (const StageMemory& stage : plan.measuring)
    measuring[stage.name] = {{"weights", stage.weights}, {"total", stage.peak}};
  const StageMemory* stage_of_peak = plan.stage_of_peak();
  Json stages = Json::object();
  for (const StageTime& stage : plan.measuring_time)
    stages[stage.name] = {
        {"times", stage.times}, {"tokens", stage.positions}, {"flops", stage.flops}, {"seconds", stage.seconds}};
  return {{"machine", machine.name},
          {"ranks", plan.ranks},
          {"parameters", plan.parameters},
          {"trained_parameters", plan.trained_parameters},
          {"after", plan.copied.after},
          {"assumes_layers", plan.copied.is_assumed()},
          {"least", plan.copied.is_assumed() ? Json{{"after", plan.copied.highest},
                                                    {"memory_bytes", plan.least_peak},
                                                    {"seconds_per_step", plan.least_seconds}}
                                             : Json()},
          {"tokens_per_step", plan.tokens_per_step},
          {"flops_per_step_and_rank", plan.flops_per_step},
          {"memory_bytes", train::to_json(plan.memory)},
          {"memory_bytes_of_measuring", measuring},
          {"peak_bytes", plan.peak()},
          {"peak_stage", stage_of_peak == nullptr ? "train" : stage_of_peak->name},
          {"usable_bytes", plan.usable},
          {"fits", plan.fits()},
          {"seconds_per_step", plan.time.total()},
          {"seconds",
           {{"layers", plan.time.layers},
            {"head", plan.time.head},
            {"update", plan.time.update},
            {"communication", plan.time.communication}}},
          {"bytes_sent_per_step_and_rank", plan.traffic.reduced},
          {"bytes_gathered_per_step_and_rank", plan.traffic.gathered},
          {"largest_batch_size", plan.largest_batch},
          {"advice", advice},
          {"steps", plan.steps},
          {"measuring", stages},
          {"hours", plan.hours()},
          {"cost", machine.price_per_hour > 0 ? Json(plan.device_hours() * machine.price_per_hour) : Json()}};
}

std::string describe(const Plan& plan, const config::RunConfig& config, const Machine& machine) {
  return Report(plan, config, machine).write();
}

}  // namespace adept::plan
