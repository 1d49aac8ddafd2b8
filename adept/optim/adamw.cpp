#include "adept/optim/adamw.h"

#include <ATen/core/ivalue.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <utility>

#include "adept/core/error.h"
#include "adept/nn/square_sum.h"

namespace adept::optim {

namespace {

void check_slices(const Parameter& p, const std::vector<RateSlice>& slices) {
  ADEPT_CHECK(!slices.empty(), "no learning rate for {}", p.name);
  std::int64_t next = 0;
  for (const RateSlice& slice : slices) {
    ADEPT_CHECK(slice.dim == slices.front().dim && slice.begin == next && slice.end > next,
                "the learning rates of {} leave a gap or overlap", p.name);
    next = slice.end;
  }
  ADEPT_CHECK(next == p.shape()[static_cast<std::size_t>(slices.front().dim)],
              "the learning rates of {} do not cover it", p.name);
}

}  // namespace

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Parameter& p : parameters_) {
    ADEPT_CHECK(p.master.scalar_type() == at::kFloat, "{} is not fp32", p.name);
    const bool is_new = moments_.emplace(p.name, Moments{at::zeros_like(p.master), at::zeros_like(p.master)}).second;
    ADEPT_CHECK(is_new, "{} is listed twice", p.name);
  }
}

void AdamW::Group::add(const at::Tensor& master, const at::Tensor& grad, const Moments& moments) {
  masters.push_back(master);
  grads.push_back(grad);
  exp_avgs.push_back(moments.exp_avg);
  exp_avg_sqs.push_back(moments.exp_avg_sq);
}

void AdamW::update(const Group& group, double rate, double weight_decay, const std::optional<at::Tensor>& grad_scale) {
  // The kernel reads the number of updates from one tensor per parameter.
  const at::Tensor count = at::full({}, static_cast<double>(num_updates_), group.masters.front().options());
  const std::vector<at::Tensor> counts(group.masters.size(), count);
  at::_fused_adamw_(group.masters, group.grads, group.exp_avgs, group.exp_avg_sqs, {}, counts, rate, options_.beta1,
                    options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false, grad_scale);
}

void AdamW::step(const std::vector<at::Tensor>& gradients, const ParameterRates& learning_rates, double grad_factor) {
  RECORD_FUNCTION("optimizer", std::vector<c10::IValue>());
  ADEPT_CHECK(learning_rates.size() == parameters_.size() && gradients.size() == parameters_.size(),
              "{} rates and {} gradients for {} parameters", learning_rates.size(), gradients.size(),
              parameters_.size());
  ++num_updates_;
  std::optional<at::Tensor> grad_scale;
  if (grad_factor != 1.0) grad_scale = at::full({}, 1.0 / grad_factor, gradients.at(0).options());
  Groups groups;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const at::Tensor& gradient = gradients[i];
    ADEPT_CHECK(gradient.defined() && gradient.sizes() == p.master.sizes() && gradient.scalar_type() == at::kFloat,
                "{} has no fp32 gradient of its shape", p.name);
    const auto found = learning_rates.find(p.name);
    ADEPT_CHECK(found != learning_rates.end(), "no learning rate for {}", p.name);
    check_slices(p, found->second);
    step_part(p, gradient, found->second, grad_scale, groups);
  }
  for (const auto& [options, group] : groups) update(group, options.first, options.second, grad_scale);
}

void AdamW::step_part(const Parameter& p, const at::Tensor& gradient, const std::vector<RateSlice>& slices,
                      const std::optional<at::Tensor>& grad_scale, Groups& groups) {
  if (p.master.numel() == 0) return;
  const Moments& m = moments_.at(p.name);
  const double weight_decay = p.shape().size() >= 2 ? options_.weight_decay : 0.0;
  const auto same_rate = [&](const RateSlice& slice) { return slice.rate == slices.front().rate; };
  if (std::all_of(slices.begin(), slices.end(), same_rate))
    return groups[{slices.front().rate, weight_decay}].add(p.master, gradient, m);
  const std::int64_t row = p.numel() / p.shape()[0];
  const std::int64_t begin = p.shard ? p.shard->begin() : 0, end = begin + p.master.numel();
  for (const RateSlice& slice : slices) {
    const bool is_rows = slice.dim == 0;
    ADEPT_CHECK(is_rows || (begin % row == 0 && end % row == 0), "{} has rates of columns and no whole rows", p.name);
    const std::int64_t from = is_rows ? std::max(slice.begin * row, begin) - begin : slice.begin;
    const std::int64_t to = is_rows ? std::min(slice.end * row, end) - begin : slice.end;
    if (from >= to) continue;  // of another rank
    const auto part = [&](const at::Tensor& tensor) {
      return is_rows ? tensor.view({-1}).slice(0, from, to) : tensor.view({-1, row}).slice(1, from, to);
    };
    // The kernel requires contiguous tensors, so columns are updated in copies.
    const at::Tensor master = part(p.master).contiguous(), grad = part(gradient.contiguous()).contiguous();
    const Moments moments = {part(m.exp_avg).contiguous(), part(m.exp_avg_sq).contiguous()};
    Group one;
    one.add(master, grad, moments);
    update(one, slice.rate, weight_decay, grad_scale);
    if (is_rows) continue;  // views
    part(p.master).copy_(master);
    part(m.exp_avg).copy_(moments.exp_avg);
    part(m.exp_avg_sq).copy_(moments.exp_avg_sq);
  }
}

std::vector<NamedPart> AdamW::state() const {
  std::map<std::string, const Parameter*> by_name;
  for (const Parameter& p : parameters_) by_name.emplace(p.name, &p);
  std::vector<NamedPart> parts;
  const auto add = [&](const char* prefix, const auto& part_of) {
    for (const auto& [name, p] : by_name)
      parts.push_back({.name = prefix + name, .values = part_of(*p), .shard = p->shard ? &*p->shard : nullptr});
  };
  add("", [&](const Parameter& p) { return p.master; });
  add(kExpAvg, [&](const Parameter& p) { return moments_.at(p.name).exp_avg; });
  add(kExpAvgSq, [&](const Parameter& p) { return moments_.at(p.name).exp_avg_sq; });
  return parts;
}

void AdamW::restore(const Parameter& parameter, const at::Tensor& master, const Moments& moments) {
  const Moments& own = moments_.at(parameter.name);
  parameter.master.copy_(parameter.part_of(master));
  own.exp_avg.copy_(parameter.part_of(moments.exp_avg));
  own.exp_avg_sq.copy_(parameter.part_of(moments.exp_avg_sq));
}

at::Tensor squared_grad_norm(const std::vector<at::Tensor>& gradients) {
  RECORD_FUNCTION("optimizer", std::vector<c10::IValue>());
  return nn::square_sum(gradients);
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace adept::optim
