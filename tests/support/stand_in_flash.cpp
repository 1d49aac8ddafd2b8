// ATen's flash attention on the device that stands in for a GPU. It refuses what the kernels of a GPU refuse, computes
// in fp32 and is slow.
//
// Legend: B sequences, H query heads, K key-value heads, T tokens, N tokens of all sequences, E head_dim.
#include <ATen/SDPBackend.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <vector>

#include "tests/support/stand_in_device.h"

namespace adept::test {
namespace {

using Stack = torch::jit::Stack;

/// Queries (B, H, T, E), keys and values (B, K, T, E) in fp32 on the CPU, and what they see, (T, T).
struct Problem {
  at::Tensor q, k, v, visible;
  double scale = 1;

  std::int64_t group() const { return q.size(1) / k.size(1); }
  at::Tensor of_queries(const at::Tensor& heads) const { return heads.repeat_interleave(group(), 1); }
  /// The sum over the query heads of each group.
  at::Tensor of_keys(const at::Tensor& heads) const {
    return heads.view({heads.size(0), k.size(1), group(), heads.size(2), heads.size(3)}).sum(2);
  }
  at::Tensor probabilities() const {
    const at::Tensor scores = q.matmul(of_queries(k).transpose(2, 3)) * scale;
    return scores.masked_fill(visible.logical_not(), -std::numeric_limits<double>::infinity()).softmax(-1);
  }
};

void check_heads(const at::Tensor& heads) {
  TORCH_CHECK(heads.device() == kStandIn, "flash attention of a tensor elsewhere");
  TORCH_CHECK(heads.scalar_type() == at::kBFloat16 || heads.scalar_type() == at::kHalf, "flash attention of ",
              heads.scalar_type());
  TORCH_CHECK(heads.size(-1) % 8 == 0 && heads.size(-1) <= 256, "flash attention of head_dim ", heads.size(-1));
  TORCH_CHECK(heads.stride(-1) == 1, "flash attention of heads that are not contiguous");
}

/// (B, T, heads, E) or (N, heads, E) as (B, heads, T, E) or (1, heads, N, E).
at::Tensor heads_first(const at::Tensor& tokens) {
  check_heads(tokens);
  const at::Tensor wide = on_cpu(tokens).to(at::kFloat);
  return (wide.dim() == 3 ? wide.unsqueeze(0) : wide).transpose(1, 2);
}
at::Tensor as_tokens(const at::Tensor& heads, const at::Tensor& like) {
  const at::Tensor tokens = heads.transpose(1, 2).to(like.scalar_type());
  return on_device((like.dim() == 3 ? tokens.squeeze(0) : tokens).contiguous());
}

std::optional<std::int64_t> number_of(const c10::IValue& value) { return value.toOptional<std::int64_t>(); }

/// `offsets`: undefined or (documents + 1).
at::Tensor visible_of(std::int64_t tokens, const at::Tensor& offsets, std::int64_t longest,
                      std::optional<std::int64_t> left) {
  const at::Tensor query = at::arange(tokens).unsqueeze(1), key = at::arange(tokens).unsqueeze(0);
  at::Tensor visible = key <= query;
  if (left && *left >= 0) visible = visible.logical_and(key >= query - *left);
  if (!offsets.defined()) return visible;
  TORCH_CHECK(offsets.device() == kStandIn && offsets.scalar_type() == at::kInt && offsets.is_contiguous(),
              "flash attention takes int32 offsets of the device");
  const at::Tensor host = on_cpu(offsets).to(at::kLong);
  TORCH_CHECK(host[0].item<std::int64_t>() == 0 && host[-1].item<std::int64_t>() == tokens, "offsets end elsewhere");
  const at::Tensor lengths = host.diff();
  TORCH_CHECK(lengths.min().item<std::int64_t>() > 0 && lengths.max().item<std::int64_t>() == longest,
              "the longest document has another length");
  const at::Tensor document = at::searchsorted(host, at::arange(tokens), /*out_int32=*/false, /*right=*/true);
  return visible.logical_and(document.unsqueeze(0) == document.unsqueeze(1));
}

at::Tensor optional_tensor(const c10::IValue& value) { return value.isTensor() ? value.toTensor() : at::Tensor(); }

at::Tensor empty_here(at::IntArrayRef sizes, at::ScalarType type) {
  return at::empty(sizes, at::TensorOptions(type).device(kStandIn));
}

struct HeadGradients {
  at::Tensor q, k, v;  // as in Problem
};
HeadGradients differentiate(const Problem& p, const at::Tensor& grad_out) {
  const at::Tensor probabilities = p.probabilities();
  const at::Tensor slopes = grad_out.matmul(p.of_queries(p.v).transpose(2, 3));
  const at::Tensor of_scores = probabilities * (slopes - (slopes * probabilities).sum(-1, /*keepdim=*/true)) * p.scale;
  return {of_scores.matmul(p.of_queries(p.k)), p.of_keys(of_scores.transpose(2, 3).matmul(p.q)),
          p.of_keys(probabilities.transpose(2, 3).matmul(grad_out))};
}

// The schemas have had other arguments at the end in other versions of torch, so these are boxed.

std::vector<c10::IValue> take_arguments(const c10::OperatorHandle& operation, Stack* stack) {
  count_call(operation.schema().name().substr(6));  // without "aten::"
  return torch::jit::pop(*stack, operation.schema().arguments().size());
}

void flash_forward(const c10::OperatorHandle& operation, Stack* stack) {
  const at::DisableRecordFunctionGuard unseen;
  const std::vector<c10::IValue> a = take_arguments(operation, stack);
  const at::Tensor q = a[0].toTensor();
  TORCH_CHECK(a[7].toDouble() == 0 && a[8].toBool(), "only causal, without dropout");
  const Problem p = {.q = heads_first(q),
                     .k = heads_first(a[1].toTensor()),
                     .v = heads_first(a[2].toTensor()),
                     .visible = visible_of(q.size(-3), optional_tensor(a[3]), a[5].toInt(), number_of(a[11])),
                     .scale = a[10].toDouble()};
  const at::Tensor out = p.probabilities().matmul(p.of_queries(p.v));
  torch::jit::push(*stack, as_tokens(out, q), empty_here({q.size(-2), q.size(-3)}, at::kFloat),
                   empty_here({2}, at::kLong), empty_here({}, at::kLong), empty_here({0}, q.scalar_type()));
}

void flash_backward(const c10::OperatorHandle& operation, Stack* stack) {
  const at::DisableRecordFunctionGuard unseen;
  const std::vector<c10::IValue> a = take_arguments(operation, stack);
  const at::Tensor q = a[1].toTensor(), k = a[2].toTensor(), v = a[3].toTensor();
  const Problem p = {.q = heads_first(q),
                     .k = heads_first(k),
                     .v = heads_first(v),
                     .visible = visible_of(q.size(-3), optional_tensor(a[6]), a[8].toInt(), number_of(a[15])),
                     .scale = a[14].toDouble()};
  const HeadGradients gradients = differentiate(p, heads_first(a[0].toTensor().contiguous()));
  torch::jit::push(*stack, as_tokens(gradients.q, q), as_tokens(gradients.k, k), as_tokens(gradients.v, v));
}

/// As on a GPU: a mask or fp32 rules flash attention out.
std::int64_t choose(const at::Tensor& q, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>& mask,
                    double, bool, std::optional<double>, bool) {
  const bool is_half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  return static_cast<std::int64_t>(is_half && !mask ? at::SDPBackend::flash_attention : at::SDPBackend::math);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", choose);
  m.impl("_flash_attention_forward", torch::CppFunction::makeFromBoxedFunction<&flash_forward>());
  m.impl("_flash_attention_backward", torch::CppFunction::makeFromBoxedFunction<&flash_backward>());
}

}  // namespace adept::test
