// Projections.
//
// Legend: D input width, E output width, R rank of an adapter.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

namespace adept::nn {

/// The input of projections. A trained weight's gradient needs it again: if one of `sources` takes part in a graph, the
/// input is recomputed from them instead of kept. The result must be the same bit for bit.
struct Input {
  at::Tensor value;                   ///< (..., D)
  std::vector<at::Tensor> sources{};  ///< tensors that a graph keeps anyway; empty: there are none
  std::function<at::Tensor(const std::vector<at::Tensor>& sources)> remake{};
};

/// x (..., D) times weight (E, D) transposed, plus bias (E) unless it is undefined: (..., E). Nothing is saved for the
/// weight's gradient when the weight is frozen. A weight is converted to x's dtype for the product, and again in the
/// backward pass, so it is stored once: a frozen weight may be narrower (bf16 or fp16 for fp32), and bf16 may read an
/// fp32 master, whose gradient is rounded to bf16. Any other mixture is an InternalError. Differentiable once.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// InternalError unless linear() takes a weight of this type with x.
void check_weight_type(const at::Tensor& weight, const at::Tensor& x);

/// linear() of the same input by each weight and bias. The products themselves accumulate the gradient with respect to
/// x, without extra passes over memory.
std::vector<at::Tensor> linears(const Input& input, const std::vector<at::Tensor>& weights,
                                const std::vector<at::Tensor>& biases);

/// A low-rank addition to a projection (LoRA, arXiv 2106.09685): scale * dropout(x) A^T B^T.
struct LoraAdapter {
  at::Tensor a;        ///< (R, D); undefined: no adapter
  at::Tensor b;        ///< (E, R)
  double scale = 1;    ///< alpha / R
  double dropout = 0;  ///< probability; only while a graph is recorded
};

/// Adds each adapter's output to y = linear(x, weight, bias) of one input x; returns y itself without an adapter. The
/// dropout of each adapter draws from ATen's generator.
std::vector<at::Tensor> with_adapters(std::vector<at::Tensor> ys, const Input& x,
                                      const std::vector<LoraAdapter>& adapters);

/// A projection: y = x weight^T + bias, plus an optional adapter. Only `nn` knows how the weight is stored.
struct Linear {
  at::Tensor weight;    ///< (E, D)
  at::Tensor bias;      ///< (E); undefined: none
  LoraAdapter adapter;  ///< none, unless LoRA is trained

  /// Whether the backward pass needs the input.
  bool keeps_input() const { return weight.requires_grad() || adapter.a.defined(); }
};

/// Each projection of the same input.
std::vector<at::Tensor> project(const Input& x, std::span<const Linear* const> projections);
at::Tensor project(const Input& x, const Linear& projection);

/// weight + scale * B A, (E, D) in fp32: what a projection with an adapter computes without dropout, as one matrix.
at::Tensor merged_weight(const at::Tensor& weight, const LoraAdapter& adapter);

}  // namespace adept::nn
