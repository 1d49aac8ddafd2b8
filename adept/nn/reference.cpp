#include "adept/nn/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "adept/nn/attention.h"
#include "adept/nn/autograd.h"
#include "adept/nn/cross_entropy.h"

namespace adept::nn::reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const at::Tensor y = at::matmul(x, weight.to(x.scalar_type()).t());
  return bias.defined() ? y + bias : y;
}

at::Tensor embedding(const at::Tensor& ids, const at::Tensor& table) {
  auto shape = ids.sizes().vec();
  shape.push_back(table.size(1));
  return table.index_select(0, ids.reshape({-1})).view(shape);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, GainConvention gain) {
  const at::Tensor wide = x.to(accumulate_type(x));
  const at::Tensor normalised = wide * (wide.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  switch (gain) {
    case GainConvention::kRounded:
      return weight * normalised.to(x.scalar_type());
    case GainConvention::kWide:
      return (weight.to(wide.scalar_type()) * normalised).to(x.scalar_type());
    case GainConvention::kOnePlus:
      return ((1 + weight.to(wide.scalar_type())) * normalised).to(x.scalar_type());
  }
  throw InternalError("unknown gain convention");
}

at::Tensor apply_rope(const at::Tensor& x, const RopeTables& tables) {
  const std::int64_t half = tables.cos.size(-1), rotary_dim = 2 * half;
  const auto of_heads = [](const at::Tensor& table) { return table.dim() == 3 ? table.unsqueeze(1) : table; };
  const at::Tensor cos = of_heads(at::cat({tables.cos, tables.cos}, -1));
  const at::Tensor sin = of_heads(at::cat({tables.sin, tables.sin}, -1));
  const at::Tensor turned = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  const at::Tensor rotated = x.narrow(-1, 0, rotary_dim) * cos + turned * sin;
  return at::cat({rotated, x.narrow(-1, rotary_dim, x.size(-1) - rotary_dim)}, -1);
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                            const Scoring& scoring) {
  const std::int64_t group = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(group, 1), values = v.repeat_interleave(group, 1);
  const at::Tensor scores = at::matmul(q, keys.transpose(2, 3)) /
                            (scoring.scale ? 1 / *scoring.scale : std::sqrt(static_cast<double>(q.size(3))));
  const at::Tensor visible = causal_mask(q.size(2), k.size(2), visibility, q.device());
  const at::Tensor masked = soft_capped(scores.to(accumulate_type(q)), scoring.soft_cap)
                                .masked_fill(~visible, -std::numeric_limits<double>::infinity());
  return at::matmul(at::softmax(masked, -1).to(q.scalar_type()), values);
}

at::Tensor gated(const at::Tensor& gate, const at::Tensor& up, Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return gate * gate.sigmoid() * up;
    case Activation::kGeluTanh: {
      const at::Tensor inner = std::sqrt(2 / std::numbers::pi) * (gate + 0.044715 * gate.pow(3));
      return 0.5 * gate * (1 + inner.tanh()) * up;
    }
  }
  throw InternalError("unknown activation");
}

at::Tensor soft_capped(const at::Tensor& x, double soft_cap) {
  if (soft_cap == 0) return x;
  return (x.to(accumulate_type(x)) / soft_cap).tanh().mul(soft_cap).to(x.scalar_type());
}

at::Tensor square_sum(at::TensorList tensors) {
  if (tensors.empty()) return at::zeros({}, at::kDouble);
  at::Tensor sum = at::zeros({}, tensors[0].options().dtype(at::kDouble));
  for (const at::Tensor& tensor : tensors) sum = sum + tensor.to(at::kDouble).square().sum();
  return sum;
}

namespace {
at::Tensor losses(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double soft_cap) {
  const at::Tensor logits = soft_capped(reference::linear(hidden, head).to(accumulate_type(hidden)), soft_cap);
  const at::Tensor has_target = targets.ne(kIgnoreIndex);
  const at::Tensor picked = logits.gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  // Not log_softmax, whose sum over a large vocabulary loses small terms in fp32: 1e-5 nats of 49,152 classes.
  const at::Tensor loss = logits.logsumexp(-1) - picked;
  return at::where(has_target, loss, at::zeros_like(loss));
}
}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                double soft_cap, at::Tensor* token_losses) {
  const at::Tensor each = losses(hidden, head, targets, soft_cap);
  if (token_losses != nullptr) *token_losses = each.detach().to(at::kFloat);
  return each.sum();
}

at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets,
                                          double soft_cap) {
  const at::NoGradGuard no_grad;
  return losses(hidden, head, targets, soft_cap).to(at::kFloat);
}

}  // namespace adept::nn::reference
