#include "adept/nn/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "adept/nn/autograd.h"
#include "adept/nn/kernels.h"
#include "adept/nn/matmul.h"
#include "adept/nn/reference.h"

namespace adept::nn {

namespace {

// Fewer are not worth packing a weight for.
constexpr std::int64_t kLeastRows = 8;

at::Tensor widened(const at::Tensor& weight, const at::Tensor& x) { return weight.to(x.scalar_type()); }

std::optional<at::Tensor> optional_of(const at::Tensor& bias) {
  return bias.defined() ? std::optional(bias) : std::nullopt;
}

at::Tensor as_rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

/// Of weights that may be stored in a narrower type than x's.
class FrozenProjections : public torch::autograd::Function<FrozenProjections> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::vector<at::Tensor>& weights,
                               const std::vector<at::Tensor>& biases) {
    context->save_for_backward(weights);
    context->saved_data["shape"] = x.sizes().vec();
    variable_list results;
    for (std::size_t i = 0; i < weights.size(); ++i)
      results.push_back(at::linear(x, widened(weights[i], x), optional_of(biases[i])));
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linears");
    const variable_list weights = context->get_saved_variables();
    at::Tensor grad_x = at::mm(as_rows(outputs[0]), widened(weights[0], outputs[0]));
    for (std::size_t i = 1; i < weights.size(); ++i)
      grad_x.addmm_(as_rows(outputs[i]), widened(weights[i], outputs[i]));
    return {grad_x.view(context->saved_data["shape"].toIntVector()), at::Tensor(), at::Tensor()};
  }
};

/// Of a frozen weight that is stored in a narrower type than x's.
class StoredProjection : public torch::autograd::Function<StoredProjection> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({weight});
    context->saved_data["has_bias"] = bias.has_value();
    return at::linear(x, widened(weight, x), bias);
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linear");
    const at::Tensor weight = context->get_saved_variables()[0], &grad_y = outputs[0];
    at::Tensor grad_x, grad_bias;
    if (context->needs_input_grad(0)) grad_x = at::matmul(grad_y, widened(weight, grad_y));
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2))
      grad_bias = grad_y.reshape({-1, grad_y.size(-1)}).sum(0);
    return {grad_x, at::Tensor(), grad_bias};
  }
};

/// By the matrix product of adept/kernels.
at::Tensor projected(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return matmul_by_kernel(as_rows(x), weight.t(), bias).view(shape);
}

class Projection : public torch::autograd::Function<Projection> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), weight});
    context->saved_data["has_bias"] = bias.has_value();
    return projected(x, weight, bias.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linear");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &grad_y = outputs[0], rows = as_rows(grad_y);
    at::Tensor grad_x, grad_weight, grad_bias;
    if (context->needs_input_grad(0)) {
      std::vector<std::int64_t> shape = grad_y.sizes().vec();
      shape.back() = weight.size(1);
      grad_x = matmul_by_kernel(rows, weight).view(shape);
    }
    if (context->needs_input_grad(1)) grad_weight = matmul_by_kernel(rows.t(), as_rows(x));
    if (context->saved_data["has_bias"].toBool() && context->needs_input_grad(2)) grad_bias = rows.sum(0);
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool is_stored = weight.scalar_type() != x.scalar_type();
  ADEPT_CHECK(!is_stored || (weight.element_size() < x.element_size() && !weight.requires_grad()),
              "a {} weight of {} with inputs of {}", weight.requires_grad() ? "trained" : "frozen",
              at::toString(weight.scalar_type()), at::toString(x.scalar_type()));
  if (active_kernels() == Kernels::kReference) return reference::linear(x, weight, bias);
  const std::optional<at::Tensor> added = optional_of(bias);
  if (is_stored) {
    if (needs_gradient(x) || (bias.defined() && needs_gradient(bias))) return StoredProjection::apply(x, weight, added);
    return at::linear(x, widened(weight, x), added);
  }
  if (has_matmul_kernel(x) && x.numel() >= kLeastRows * x.size(-1)) {
    if (needs_gradient(x) || needs_gradient(weight) || (bias.defined() && needs_gradient(bias)))
      return Projection::apply(x, weight, added);
    return projected(x, weight, bias);
  }
  return at::linear(x, weight, added);
}

std::vector<at::Tensor> linears(const at::Tensor& x, const std::vector<at::Tensor>& weights,
                                const std::vector<at::Tensor>& biases) {
  ADEPT_CHECK(weights.size() == biases.size(), "{} weights and {} biases", weights.size(), biases.size());
  const auto trains = [](const at::Tensor& tensor) { return tensor.defined() && needs_gradient(tensor); };
  const bool at_once = needs_gradient(x) && !has_matmul_kernel(x) && active_kernels() == Kernels::kFused &&
                       std::none_of(weights.begin(), weights.end(), trains) &&
                       std::none_of(biases.begin(), biases.end(), trains);
  if (at_once) return FrozenProjections::apply(x, weights, biases);
  std::vector<at::Tensor> results;
  for (std::size_t i = 0; i < weights.size(); ++i) results.push_back(linear(x, weights[i], biases[i]));
  return results;
}

at::Tensor with_adapter(const at::Tensor& y, const at::Tensor& x, const LoraAdapter& adapter) {
  if (!adapter.a.defined()) return y;
  const bool drops = adapter.dropout > 0 && at::GradMode::is_enabled();
  const at::Tensor input = drops ? at::dropout(x, adapter.dropout, /*train=*/true) : x;
  return at::add(y, nn::linear(nn::linear(input, adapter.a), adapter.b), adapter.scale);
}

at::Tensor merged_weight(const at::Tensor& weight, const LoraAdapter& adapter) {
  return at::addmm(weight.to(at::kFloat), adapter.b.to(at::kFloat), adapter.a.to(at::kFloat), 1.0, adapter.scale);
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) {
  if (active_kernels() == Kernels::kReference) return reference::embedding(ids, table);
  return at::embedding(table, ids);
}

}  // namespace adept::nn
