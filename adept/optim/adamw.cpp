#include "adept/optim/adamw.h"

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "adept/core/error.h"

namespace adept::optim {

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Parameter& p : parameters_) {
    ADEPT_CHECK(p.master.scalar_type() == at::kFloat && p.grad.scalar_type() == at::kFloat, "{} is not fp32", p.name);
    ADEPT_CHECK(p.master.sizes() == p.grad.sizes(), "master and gradient of {} differ in shape", p.name);
    const bool is_new = moments_.emplace(p.name, Moments{at::zeros_like(p.master), at::zeros_like(p.master)}).second;
    ADEPT_CHECK(is_new, "{} is listed twice", p.name);
  }
}

void AdamW::step(const std::map<std::string, double>& learning_rates, double grad_factor) {
  ADEPT_CHECK(learning_rates.size() == parameters_.size(), "{} rates for {} parameters", learning_rates.size(),
              parameters_.size());
  ++num_updates_;
  std::optional<at::Tensor> grad_scale;
  if (grad_factor != 1.0) grad_scale = at::full({}, 1.0 / grad_factor, parameters_.at(0).grad.options());
  for (Parameter& p : parameters_) {
    const auto rate = learning_rates.find(p.name);
    ADEPT_CHECK(rate != learning_rates.end(), "no learning rate for {}", p.name);
    const Moments& m = moments_.at(p.name);
    // The kernel reads the number of updates as a tensor of its own per parameter.
    const at::Tensor count = at::full({}, static_cast<double>(num_updates_), p.master.options());
    const double weight_decay = p.master.dim() >= 2 ? options_.weight_decay : 0.0;
    at::_fused_adamw_({p.master}, {p.grad}, {m.exp_avg}, {m.exp_avg_sq}, {}, {count}, rate->second, options_.beta1,
                      options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false, /*maximize=*/false, grad_scale);
  }
}

double global_grad_norm(const std::vector<Parameter>& parameters) {
  std::vector<at::Tensor> grads;
  for (const Parameter& p : parameters) grads.push_back(p.grad);
  double sum = 0;
  for (const at::Tensor& norm : at::_foreach_norm(grads, 2, at::kDouble)) {
    const double value = norm.item<double>();
    sum += value * value;
  }
  return std::sqrt(sum);
}

double clip_factor(double norm, double max_norm) {
  if (max_norm <= 0) return 1.0;
  return std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace adept::optim
