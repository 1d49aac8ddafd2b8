#include "adept/nn/flash_attention.h"

#include <ATen/SDPBackend.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "adept/core/error.h"
#include "adept/nn/attention.h"
#include "adept/nn/transfer.h"

namespace adept::nn {
namespace {

/// (B, heads, T, E) as (B, T, heads, E'), E' the next multiple of 8, which the kernels require.
at::Tensor as_flash_takes(const at::Tensor& heads) {
  const at::Tensor tokens = heads.transpose(1, 2);
  const std::int64_t missing = (8 - tokens.size(3) % 8) % 8;
  return missing == 0 ? tokens : at::constant_pad_nd(tokens, {0, missing});
}

}  // namespace

DocumentBounds document_bounds(const at::Tensor& document_starts, at::Device device) {
  const at::Tensor starts = document_starts.contiguous();
  const std::int64_t rows = starts.size(0), columns = starts.size(1);
  const auto* first = starts.const_data_ptr<std::int32_t>();
  std::vector<std::int32_t> offsets;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t t = 0; t < columns; ++t)
      if (const std::int64_t token = row * columns + t; t == 0 || first[token] != first[token - 1])
        offsets.push_back(static_cast<std::int32_t>(token));
  offsets.push_back(static_cast<std::int32_t>(rows * columns));
  DocumentBounds bounds;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    bounds.longest = std::max<std::int64_t>(bounds.longest, offsets[i + 1] - offsets[i]);
  const at::Tensor host = empty_on_host({std::ssize(offsets)}, at::kInt, device);
  std::copy(offsets.begin(), offsets.end(), host.data_ptr<std::int32_t>());
  bounds.offsets = to_device(host, device);
  return bounds;
}

bool has_flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Scoring& scoring) {
  const bool is_half = q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf;
  if (q.is_cpu() || !is_half || scoring.soft_cap > 0 || q.size(2) != k.size(2) || q.numel() == 0) return false;
  // It knows the hardware and the build. Where it takes cuDNN's, there is flash attention, too.
  const auto choice = static_cast<at::SDPBackend>(at::_fused_sdp_choice(
      q, k, v, std::nullopt, /*dropout_p=*/0.0, /*is_causal=*/true, scoring.scale, /*enable_gqa=*/true));
  return choice == at::SDPBackend::flash_attention || choice == at::SDPBackend::cudnn_attention;
}

at::Tensor flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                           const Scoring& scoring) {
  const std::int64_t B = q.size(0), H = q.size(1), T = q.size(2), E = q.size(3);
  const double scale = scoring.scale.value_or(1 / std::sqrt(static_cast<double>(E)));  // not of a padded E
  std::optional<std::int64_t> left, right;
  if (visibility.window > 0 && visibility.window < T) {
    left = visibility.window - 1;
    right = 0;
  }
  std::optional<at::Tensor> offsets;
  std::int64_t longest = T;
  at::Tensor queries = as_flash_takes(q), keys = as_flash_takes(k), values = as_flash_takes(v);
  if (visibility.document_starts.defined()) {
    const DocumentBounds bounds = visibility.document_bounds.defined()
                                      ? visibility.document_bounds
                                      : document_bounds(visibility.document_starts, q.device());
    offsets = bounds.offsets;
    longest = bounds.longest;
    for (at::Tensor* tokens : {&queries, &keys, &values}) *tokens = tokens->flatten(0, 1);  // (B T, heads, E)
  }
  const at::Tensor out = std::get<0>(at::_flash_attention_forward(queries, keys, values, offsets, offsets, longest,
                                                                  longest, /*dropout_p=*/0.0, /*is_causal=*/true,
                                                                  /*return_debug_mask=*/false, scale, left, right));
  return out.view({B, T, H, out.size(-1)}).narrow(-1, 0, E).transpose(1, 2);
}

}  // namespace adept::nn
