#include "adept/nn/linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
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

at::Tensor as_rows(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }
bool by_kernel(const at::Tensor& x) { return has_matmul_kernel(x) && x.numel() >= kLeastRows * x.size(-1); }
at::Tensor converted(const at::Tensor& weight, const at::Tensor& x) { return weight.to(x.scalar_type()); }

at::Tensor projected(const at::Tensor& x, const at::Tensor& stored, const at::Tensor& bias) {
  const at::Tensor weight = converted(stored, x);
  if (!by_kernel(x)) return at::linear(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return matmul_by_kernel(as_rows(x), weight.t(), bias).view(shape);
}

/// Sum of grads[i] (..., E_i) weights[i] (E_i, D): (N, D).
at::Tensor input_gradient(const variable_list& grads, at::TensorList weights) {
  if (!by_kernel(grads[0])) {
    at::Tensor sum = at::mm(as_rows(grads[0]), converted(weights[0], grads[0]));
    for (std::size_t i = 1; i < grads.size(); ++i) sum.addmm_(as_rows(grads[i]), converted(weights[i], grads[i]));
    return sum;
  }
  if (grads.size() == 1) return matmul_by_kernel(as_rows(grads[0]), converted(weights[0], grads[0]));
  const at::Tensor first = as_rows(grads[0]);
  at::Tensor sum = at::zeros({first.size(0), weights[0].size(1)}, first.options().dtype(at::kFloat));
  for (std::size_t i = 0; i < grads.size(); ++i)
    add_matmul_by_kernel(sum, as_rows(grads[i]), converted(weights[i], grads[i]));
  return sum.to(first.scalar_type());
}

at::Tensor weight_gradient(const at::Tensor& grad, const at::Tensor& x) {
  return by_kernel(grad) ? matmul_by_kernel(as_rows(grad).t(), as_rows(x)) : at::mm(as_rows(grad).t(), as_rows(x));
}

struct Remaking : torch::CustomClassHolder {
  std::function<at::Tensor(const std::vector<at::Tensor>&)> function;
};

/// Each weight's product with x. `parameters` are the weights, and the biases of those that have one. `sources` and
/// `remaking` make x again; null: x is kept.
class Projections : public torch::autograd::Function<Projections> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, at::TensorList parameters,
                               const std::vector<std::int64_t>& has_bias, const std::vector<at::Tensor>& sources,
                               const c10::intrusive_ptr<Remaking>& remaking) {
    const std::size_t count = has_bias.size();
    const auto trains = [](const at::Tensor& weight) { return weight.requires_grad(); };
    const bool any_trains = std::any_of(parameters.begin(), parameters.begin() + std::ssize(has_bias), trains);
    variable_list results, saved;
    for (std::size_t i = 0, bias = count; i < count; ++i) {
      results.push_back(projected(x, parameters[i], has_bias[i] != 0 ? parameters[bias++] : at::Tensor()));
      saved.push_back(parameters[i]);
    }
    if (any_trains && remaking == nullptr) saved.push_back(x);
    if (any_trains && remaking != nullptr) {
      for (const at::Tensor& source : sources) saved.push_back(source.detach());
      context->saved_data["remaking"] = c10::IValue::make_capsule(remaking);
    }
    context->save_for_backward(saved);
    context->saved_data["shape"] = x.sizes().vec();
    context->saved_data["has_bias"] = has_bias;
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("linear");
    const variable_list saved = context->get_saved_variables();
    const auto has_bias = context->saved_data["has_bias"].toIntVector();
    const at::TensorList weights = at::TensorList(saved).slice(0, has_bias.size());
    variable_list gradients(1);
    if (context->needs_input_grad(0))
      gradients[0] = input_gradient(outputs, weights).view(context->saved_data["shape"].toIntVector());
    bool any_wanted = false;
    for (std::size_t i = 0; i < weights.size(); ++i) any_wanted |= context->needs_input_grad(1 + i);
    const at::Tensor x =
        any_wanted ? input(*context, {saved.begin() + std::ssize(has_bias), saved.end()}) : at::Tensor();
    for (std::size_t i = 0; i < weights.size(); ++i)
      gradients.push_back(context->needs_input_grad(1 + i) ? weight_gradient(outputs[i], x) : at::Tensor());
    for (std::size_t i = 0; i < weights.size(); ++i)
      if (has_bias[i] != 0)
        gradients.push_back(context->needs_input_grad(gradients.size()) ? as_rows(outputs[i]).sum(0) : at::Tensor());
    gradients.resize(gradients.size() + 3);
    return gradients;
  }

 private:
  static at::Tensor input(const AutogradContext& context, const variable_list& kept) {
    const auto remaking = context.saved_data.find("remaking");
    if (remaking == context.saved_data.end()) return kept[0];
    return static_cast<const Remaking&>(*remaking->second.toCapsule()).function(kept);
  }
};

c10::intrusive_ptr<Remaking> remaking_of(const Input& input) {
  if (std::none_of(input.sources.begin(), input.sources.end(), needs_gradient)) return {};
  auto remaking = c10::make_intrusive<Remaking>();
  remaking->function = input.remake;
  return remaking;
}

}  // namespace

void check_weight_type(const at::Tensor& weight, const at::Tensor& x) {
  const bool is_narrow = weight.element_size() < x.element_size() && !weight.requires_grad();
  const bool is_master = weight.scalar_type() == at::kFloat && x.element_size() < weight.element_size();
  ADEPT_CHECK(weight.scalar_type() == x.scalar_type() || is_narrow || is_master, "a {} weight of {} with inputs of {}",
              weight.requires_grad() ? "trained" : "frozen", at::toString(weight.scalar_type()),
              at::toString(x.scalar_type()));
}

std::vector<at::Tensor> linears(const Input& input, const std::vector<at::Tensor>& weights,
                                const std::vector<at::Tensor>& biases) {
  const at::Tensor& x = input.value;
  ADEPT_CHECK(weights.size() == biases.size() && !weights.empty(), "{} weights and {} biases", weights.size(),
              biases.size());
  std::vector<at::Tensor> results, parameters = weights;
  std::vector<std::int64_t> has_bias;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    check_weight_type(weights[i], x);
    has_bias.push_back(biases[i].defined() ? 1 : 0);
    if (biases[i].defined()) parameters.push_back(biases[i]);
  }
  const bool is_reference = active_kernels() == Kernels::kReference;
  if (!is_reference && (needs_gradient(x) || std::any_of(parameters.begin(), parameters.end(), needs_gradient)))
    return Projections::apply(x, at::TensorList(parameters), has_bias, input.sources, remaking_of(input));
  for (std::size_t i = 0; i < weights.size(); ++i)
    results.push_back(is_reference ? reference::linear(x, weights[i], biases[i]) : projected(x, weights[i], biases[i]));
  return results;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return linears({x}, {weight}, {bias}).front();
}

std::vector<at::Tensor> with_adapters(std::vector<at::Tensor> ys, const Input& x,
                                      const std::vector<LoraAdapter>& adapters) {
  ADEPT_CHECK(ys.size() == adapters.size(), "{} projections and {} adapters", ys.size(), adapters.size());
  std::vector<std::size_t> sharing;  // those that multiply the same x
  std::vector<at::Tensor> shared_a;
  for (std::size_t i = 0; i < ys.size(); ++i) {
    const LoraAdapter& adapter = adapters[i];
    if (!adapter.a.defined()) continue;
    if (adapter.dropout > 0 && at::GradMode::is_enabled()) {
      const at::Tensor dropped = at::dropout(x.value, adapter.dropout, /*train=*/true);
      ys[i] = at::add(ys[i], nn::linear(nn::linear(dropped, adapter.a), adapter.b), adapter.scale);
    } else {
      sharing.push_back(i);
      shared_a.push_back(adapter.a);
    }
  }
  if (sharing.empty()) return ys;
  const std::vector<at::Tensor> reduced = linears(x, shared_a, std::vector<at::Tensor>(shared_a.size()));
  for (std::size_t s = 0; s < sharing.size(); ++s) {
    const LoraAdapter& adapter = adapters[sharing[s]];
    ys[sharing[s]] = at::add(ys[sharing[s]], nn::linear(reduced[s], adapter.b), adapter.scale);
  }
  return ys;
}

std::vector<at::Tensor> project(const Input& x, std::span<const Linear* const> projections) {
  std::vector<at::Tensor> weights, biases;
  std::vector<LoraAdapter> adapters;
  for (const Linear* p : projections) {
    weights.push_back(p->weight);
    biases.push_back(p->bias);
    adapters.push_back(p->adapter);
  }
  return with_adapters(linears(x, weights, biases), x, adapters);
}

at::Tensor project(const Input& x, const Linear& projection) {
  const Linear* const one[] = {&projection};
  return project(x, one).front();
}

at::Tensor merged_weight(const at::Tensor& weight, const LoraAdapter& adapter) {
  return at::addmm(weight.to(at::kFloat), adapter.b.to(at::kFloat), adapter.a.to(at::kFloat), 1.0, adapter.scale);
}

}  // namespace adept::nn
