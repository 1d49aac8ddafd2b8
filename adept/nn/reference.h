// The operations of this folder written plainly, with ATen's own autograd: what the fast versions are tested against.
// Shapes and meaning are those of the function of the same name.
#pragma once

#include "adept/nn/attention.h"
#include "adept/nn/gate.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::nn::reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});
at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table);
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps,
                    GainConvention gain = GainConvention::kRounded);
at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables);
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Visibility& visibility = {}, const Scoring& scoring = {});
at::Tensor square_sum(at::TensorList tensors);
at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation);
at::Tensor soft_capped(const at::Tensor& x, double soft_cap);
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                double soft_cap = 0, at::Tensor* token_losses = nullptr);
at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                          double soft_cap = 0);

}  // namespace adept::nn::reference
