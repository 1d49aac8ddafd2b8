#include "adept/plan/step_time.h"

#include <algorithm>

#include "adept/model/cost.h"
#include "adept/plan/rehearsal.h"

namespace adept::plan {
namespace {

constexpr double kUpdateBytes = 28;  // read and written for each trained parameter: 4 fp32 values, 3 of them twice

double tokens_of_rank(const config::RunConfig& config) {
  return static_cast<double>(config.train.batch_size * config.train.grad_accum * config.seq_len);
}

// By this rank.
double updated_parameters(const Layout& layout) {
  std::int64_t count = 0;
  for (const optim::Parameter& p : layout.trainable().parameters()) count += p.master.numel();
  return static_cast<double>(count);
}

StepTime measured_time(const Layout& layout, const config::RunConfig& config, const Costs& costs) {
  const double tokens = tokens_of_rank(config);
  StepTime time;
  for (const PartCost& layer : costs.layers) time.layers += tokens * layer.seconds;
  time.head = tokens * costs.head.seconds;
  time.update = updated_parameters(layout) * rehearse_update();
  return time;
}

StepTime assumed_time(const Layout& layout, const config::RunConfig& config, const Machine& machine) {
  const double flops = necessary_flops(layout, config);
  const bool is_fp32 = layout.decoder().dtype() == at::kFloat;
  const double rate = machine.rate(is_fp32);
  const auto& head = layout.decoder().weights().lm_head.weight;
  const double of_head = tokens_of_rank(config) * static_cast<double>(head.numel()) * (head.requires_grad() ? 6 : 4);
  StepTime time;
  time.head = std::min(of_head, flops) / rate;
  time.layers = flops / rate - time.head;
  time.update = updated_parameters(layout) * kUpdateBytes / machine.memory_bandwidth;
  return time;
}

}  // namespace

// A ring: each rank sends (n - 1) / n of the gradients twice (reduce-scatter, all-gather), in fp32, and as much of the
// weights as the forward pass reads them.
Traffic traffic_of(const Layout& layout, const config::RunConfig& config) {
  const train::Trainable& trainable = layout.trainable();
  const auto n = static_cast<double>(layout.ranks()), micro_batches = static_cast<double>(config.train.grad_accum);
  double bytes = 0;
  for (std::size_t i = 0; i < trainable.leaves().size(); ++i)
    if (!trainable.is_divided(i))
      bytes += static_cast<double>(2 * 4 * trainable.leaves()[i].numel()) +
               static_cast<double>(trainable.leaves()[i].nbytes());
  return {.reduced = bytes * (n - 1) / n + layout.bytes_scattered() * micro_batches,
          .gathered = layout.bytes_gathered() * micro_batches};
}

double necessary_flops(const Layout& layout, const config::RunConfig& config) {
  const model::StepCost cost =
      model::step_cost(layout.decoder().weights(), layout.trainable().lowest_layer(), config.seq_len);
  return tokens_of_rank(config) * (cost.flops + cost.prefix_flops);
}

StepTime time_of(const Layout& layout, const config::RunConfig& config, const Costs& costs, const Machine& machine) {
  StepTime time = machine.is_this_one ? measured_time(layout, config, costs) : assumed_time(layout, config, machine);
  const double bandwidth = machine.bandwidth(layout.ranks());
  if (layout.ranks() == 1 || bandwidth <= 0) return time;
  const Traffic traffic = traffic_of(layout, config);
  time.communication = traffic.reduced / bandwidth + std::max(0.0, traffic.gathered / bandwidth - time.layers);
  return time;
}

}  // namespace adept::plan
