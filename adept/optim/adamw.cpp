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
  ADEPT_CHECK(next == p.master.size(slices.front().dim), "the learning rates of {} do not cover it", p.name);
}

}  // namespace

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options, dist::ProcessGroup& ranks)
    : parameters_(std::move(parameters)), options_(options), ranks_(&ranks) {
  for (const Parameter& p : parameters_) {
    ADEPT_CHECK(p.master.scalar_type() == at::kFloat, "{} is not fp32", p.name);
    const at::Tensor rows = row_shard(p.master, ranks.rank(), ranks.size()).of(p.master);
    const bool is_new = moments_.emplace(p.name, Moments{at::zeros_like(rows), at::zeros_like(rows)}).second;
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
    const at::Tensor& whole_grad = gradients[i];
    ADEPT_CHECK(
        whole_grad.defined() && whole_grad.sizes() == p.master.sizes() && whole_grad.scalar_type() == at::kFloat,
        "{} has no fp32 gradient of its shape", p.name);
    const auto found = learning_rates.find(p.name);
    ADEPT_CHECK(found != learning_rates.end(), "no learning rate for {}", p.name);
    check_slices(p, found->second);
    step_rows(p, whole_grad, found->second, grad_scale, groups);
  }
  for (const auto& [options, group] : groups) update(group, options.first, options.second, grad_scale);
  gather_masters();
}

void AdamW::step_rows(const Parameter& p, const at::Tensor& gradient, const std::vector<RateSlice>& slices,
                      const std::optional<at::Tensor>& grad_scale, Groups& groups) {
  const RowShard rows = row_shard(p.master, ranks_->rank(), ranks_->size());
  if (rows.size() == 0) return;
  const at::Tensor own = rows.of(p.master), own_gradient = rows.of(gradient);
  const Moments& m = moments_.at(p.name);
  const double weight_decay = p.master.dim() >= 2 ? options_.weight_decay : 0.0;
  const auto same_rate = [&](const RateSlice& slice) { return slice.rate == slices.front().rate; };
  if (std::all_of(slices.begin(), slices.end(), same_rate))
    return groups[{slices.front().rate, weight_decay}].add(own, own_gradient, m);
  for (const RateSlice& slice : slices) {
    const std::int64_t first = slice.dim == 0 ? rows.begin : 0, end = slice.dim == 0 ? rows.end : slice.end;
    const std::int64_t from = std::max(slice.begin, first) - first, to = std::min(slice.end, end) - first;
    if (from >= to) continue;  // of another rank
    const auto part = [&](const at::Tensor& tensor) { return tensor.slice(slice.dim, from, to); };
    // The kernel requires contiguous tensors, so columns are updated in copies.
    const at::Tensor master = part(own).contiguous(), grad = part(own_gradient).contiguous();
    const Moments moments = {part(m.exp_avg).contiguous(), part(m.exp_avg_sq).contiguous()};
    Group one;
    one.add(master, grad, moments);
    update(one, slice.rate, weight_decay, grad_scale);
    if (slice.dim == 0) continue;  // rows are views
    part(own).copy_(master);
    part(m.exp_avg).copy_(moments.exp_avg);
    part(m.exp_avg_sq).copy_(moments.exp_avg_sq);
  }
}

void AdamW::gather_masters() {
  std::vector<at::Tensor> masters;
  for (const Parameter& p : parameters_) masters.push_back(p.master);
  gather_rows(masters, *ranks_);
}

MomentsByName AdamW::gather_moments() const {
  if (ranks_->size() == 1) return moments_;
  MomentsByName all;
  for (const Parameter& p : parameters_) {
    const RowShard rows = row_shard(p.master, ranks_->rank(), ranks_->size());
    const Moments& own = moments_.at(p.name);
    const auto whole = [&](const at::Tensor& part) {
      const at::Tensor tensor = at::zeros_like(p.master);
      rows.of(tensor).copy_(part);
      gather_rows({&tensor, 1}, *ranks_);
      return ranks_->is_first() ? tensor.cpu() : at::Tensor();  // a device holds one at a time
    };
    const Moments moments = {whole(own.exp_avg), whole(own.exp_avg_sq)};
    if (ranks_->is_first()) all.emplace(p.name, moments);
  }
  return all;
}

void AdamW::restore_moments(const std::string& name, const Moments& whole) {
  const Moments& own = moments_.at(name);
  const RowShard rows = row_shard(whole.exp_avg, ranks_->rank(), ranks_->size());
  own.exp_avg.copy_(rows.of(whole.exp_avg));
  own.exp_avg_sq.copy_(rows.of(whole.exp_avg_sq));
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
