#include <fmt/format.h>
#include <fmt/ranges.h>

#include "adept/core/progress.h"
#include "adept/plan/plan.h"

namespace adept::plan {
namespace {

std::string seconds_text(double seconds) {
  if (seconds >= 100) return format_duration(seconds);
  return seconds >= 1 ? fmt::format("{:.1f} s", seconds) : fmt::format("{:.0f} ms", 1e3 * seconds);
}

}  // namespace

Json to_json(const Plan& plan, const Machine& machine) {
  Json advice = Json::array();
  for (const Advice& a : plan.advice)
    advice.push_back({{"change", a.change}, {"memory_bytes", a.peak}, {"fits", a.peak <= plan.usable}});
  Json json = {{"machine", machine.name},
               {"ranks", plan.ranks},
               {"parameters", plan.parameters},
               {"trained_parameters", plan.trained_parameters},
               {"after", plan.after},
               {"assumes_layers", plan.assumes_layers},
               {"tokens_per_step", plan.tokens_per_step},
               {"flops_per_step_and_rank", plan.flops_per_step},
               {"memory_bytes", train::to_json(plan.memory)},
               {"usable_bytes", plan.usable},
               {"fits", plan.fits()},
               {"seconds_per_step", plan.time.total()},
               {"seconds",
                {{"layers", plan.time.layers},
                 {"head", plan.time.head},
                 {"update", plan.time.update},
                 {"communication", plan.time.communication}}},
               {"bytes_sent_per_step_and_rank", plan.bytes_sent},
               {"bytes_gathered_per_step_and_rank", plan.bytes_gathered},
               {"largest_batch_size", plan.largest_batch},
               {"advice", advice}};
  json["steps"] = plan.steps;
  json["hours"] = plan.hours();
  json["cost"] = machine.price_per_hour > 0
                     ? Json(plan.hours() * static_cast<double>(plan.ranks) * machine.price_per_hour)
                     : Json();
  return json;
}

std::string describe(const Plan& plan, const config::RunConfig& config, const Machine& machine) {
  std::string text = fmt::format("{} x {}: {}\n", plan.ranks, machine.name, machine.meaning);
  const auto line = [&](std::string_view name, const std::string& value) {
    text += fmt::format("  {:<16}{}\n", name, value);
  };
  const auto bytes = [&](std::string_view name, std::int64_t value) {
    if (value > 0) line(name, fmt::format("{:>10}", format_bytes(value)));
  };
  line("model",
       fmt::format("{} parameters, {} trained ({:.1f} %)", format_count(plan.parameters),
                   format_count(plan.trained_parameters),
                   100.0 * static_cast<double>(plan.trained_parameters) / static_cast<double>(plan.parameters)));
  if (!plan.after.empty())
    line("copies",
         fmt::format("after layers {}{}", fmt::join(plan.after, ", "),
                     plan.assumes_layers ? " (assumed: the probe will choose them; higher ones cost less)" : ""));
  line("step",
       fmt::format("{} sequences x {} tokens x {} micro-batches x {} ranks = {} tokens", config.train.batch_size,
                   config.seq_len, config.train.grad_accum, plan.ranks, format_count(plan.tokens_per_step)));
  text += "\nmemory of a rank\n";
  bytes("weights", plan.memory.weights);
  bytes("masters", plan.memory.masters);
  bytes("moments", plan.memory.moments);
  bytes("gradients", plan.memory.gradients);
  bytes("activations", plan.memory.activations);
  bytes("work space", plan.memory.work_space);
  line("peak", fmt::format("{:>10} of {}: {}", format_bytes(plan.memory.peak), format_bytes(plan.usable),
                           plan.fits() ? "fits" : "does not fit"));
  for (const Advice& advice : plan.advice)
    line("", fmt::format("with {}: {}{}", advice.change, format_bytes(advice.peak),
                         advice.peak <= plan.usable ? ", fits" : ", does not fit"));
  if (plan.largest_batch > 0)
    line("largest batch",
         fmt::format("train.batch_size: {} ({})", plan.largest_batch, format_bytes(plan.largest_batch_peak)));
  else
    line("largest batch", "none fits");
  text += "\ntime of a step\n";
  line("layers", seconds_text(plan.time.layers));
  line("head and loss", seconds_text(plan.time.head));
  line("update", seconds_text(plan.time.update));
  if (plan.ranks > 1)
    line("communication",
         fmt::format("{}, {} sent by each rank (its overlap with the backward pass is not counted)",
                     plan.time.communication > 0 ? seconds_text(plan.time.communication) : "time not known",
                     format_bytes(static_cast<std::int64_t>(plan.bytes_sent))));
  if (plan.bytes_gathered > 0)
    line("",
         fmt::format("frozen layers: each rank sends and receives {} in {} micro-batches, while layers are computed",
                     format_bytes(static_cast<std::int64_t>(plan.bytes_gathered)), config.train.grad_accum));
  if (plan.ranks > 1 && machine.is_this_one)
    line("", "the ranks share this machine's cores, all of which were measured at once: a step takes longer");
  line("total",
       fmt::format(
           "{}, {} tokens/s{}", seconds_text(plan.time.total()),
           format_count(static_cast<std::int64_t>(static_cast<double>(plan.tokens_per_step) / plan.time.total())),
           machine.is_this_one
               ? " (measured parts)"
               : fmt::format(" (assumed: {:.0f} % of the peak rate of matrix products)", 100 * machine.efficiency)));
  text += "\nrun\n";
  const double device_hours = plan.hours() * static_cast<double>(plan.ranks);
  line("training", fmt::format("{} steps, {} tokens: {}", format_count(plan.steps),
                               format_count(plan.steps * plan.tokens_per_step), format_duration(3600 * plan.hours())));
  if (plan.ranks > 1 || machine.price_per_hour > 0) line("devices", fmt::format("{:.1f} hours", device_hours));
  if (machine.price_per_hour > 0) line("cost", fmt::format("{:.2f}", device_hours * machine.price_per_hour));
  return text;
}

}  // namespace adept::plan
