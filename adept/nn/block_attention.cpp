#include "adept/nn/block_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "adept/nn/attention.h"
#include "adept/nn/autograd.h"
#include "adept/nn/reference.h"

namespace adept::nn {
namespace {

/// Queries [query, query + num_queries) of sequences [row, row + num_rows), and the keys from the first to the last
/// that one of them sees.
struct Block {
  std::int64_t row = 0, num_rows = 0, query = 0, num_queries = 0, key = 0, num_keys = 0;

  at::Tensor queries(const at::Tensor& heads) const { return part(heads, query, num_queries); }
  at::Tensor keys(const at::Tensor& heads) const { return part(heads, key, num_keys); }

 private:
  at::Tensor part(const at::Tensor& heads, std::int64_t begin, std::int64_t count) const {
    return heads.narrow(0, row, num_rows).narrow(2, begin, count);
  }
};

using Blocks = std::vector<Block>;

/// Appends the blocks of queries [begin, end), whose document starts at key `start`; `before`: keys before query 0.
void add_blocks(Blocks& blocks, const Block& rows, std::int64_t begin, std::int64_t end, std::int64_t start,
                std::int64_t before, std::int64_t window) {
  for (Block block = rows; begin < end; begin += block.num_queries) {
    block.query = begin;
    block.num_queries = std::min(kBlockQueries, end - begin);
    block.key = window > 0 ? std::max(start, before + begin - window + 1) : start;
    block.num_keys = before + begin + block.num_queries - block.key;
    blocks.push_back(block);
  }
}

Blocks blocks_of(std::int64_t num_rows, std::int64_t num_queries, std::int64_t num_keys, const Visibility& visibility) {
  Blocks blocks;
  const std::int64_t before = num_keys - num_queries, window = visibility.window;
  if (!visibility.document_starts.defined()) {
    add_blocks(blocks, {.num_rows = num_rows}, 0, num_queries, 0, before, window);
    return blocks;
  }
  const at::Tensor starts = visibility.document_starts.contiguous();
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const auto* first = starts.const_data_ptr<std::int32_t>() + row * num_queries;
    for (std::int64_t begin = 0; begin < num_queries;) {
      const auto end =
          std::find_if(first + begin, first + num_queries, [&](auto s) { return s != first[begin]; }) - first;
      add_blocks(blocks, {.row = row, .num_rows = 1}, begin, end, first[begin], before, window);
      begin = end;
    }
  }
  return blocks;
}

/// Softly capped scores, which ATen's attention has not. Queries of a group stand below each other.
at::Tensor attend_capped(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window,
                         const Scoring& scoring) {
  const std::int64_t B = q.size(0), K = k.size(1), G = q.size(1) / K, T = q.size(2), S = k.size(2);
  const double scale = scoring.scale.value_or(1 / std::sqrt(static_cast<double>(q.size(3))));
  const at::Tensor products = q.reshape({B, K, G * T, q.size(3)}).matmul(k.transpose(2, 3)).view({B, K, G, T, S});
  const at::Tensor scores = reference::soft_capped(products.to(accumulate_type(q)) * scale, scoring.soft_cap);
  const at::Tensor hidden = causal_mask(T, S, {.window = window}, q.device()).logical_not().unsqueeze(2);
  const at::Tensor masked = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  const at::Tensor probabilities = masked.softmax(-1).to(q.scalar_type()).view({B, K, G * T, S});
  return probabilities.matmul(v).view(q.sizes());
}

/// Of a block.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t window,
                  const Scoring& scoring) {
  if (scoring.soft_cap > 0) return attend_capped(q, k, v, window, scoring);
  const std::int64_t T = q.size(2), S = k.size(2);
  const bool is_grouped = q.size(1) != k.size(1), is_cut = window > 0 && window < S;
  std::optional<at::Tensor> mask;
  if (is_cut || (T > 1 && T < S)) mask = causal_mask(T, S, {.window = window}, q.device());
  return at::scaled_dot_product_attention(q, k, v, mask, /*dropout_p=*/0.0, /*is_causal=*/!mask && T > 1, scoring.scale,
                                          is_grouped);
}

class BlockAttention : public torch::autograd::Function<BlockAttention> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const Visibility& visibility, const Scoring& scoring) {
    const at::Tensor out = at::empty({q.size(0), q.size(2), q.size(1), q.size(3)}, q.options()).transpose(1, 2);
    for (const Block& block : blocks_of(q.size(0), q.size(2), k.size(2), visibility))
      block.queries(out).copy_(attend(block.queries(q), block.keys(k), block.keys(v), visibility.window, scoring));
    context->save_for_backward({q, k, v, visibility.document_starts});
    context->saved_data["window"] = visibility.window;
    context->saved_data["scale"] = scoring.scale ? c10::IValue(*scoring.scale) : c10::IValue();
    context->saved_data["soft_cap"] = scoring.soft_cap;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list outputs) {
    check_differentiated_once("block_attention");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2];
    const Visibility visibility = {.window = context->saved_data["window"].toInt(), .document_starts = saved[3]};
    const Scoring scoring = {.scale = context->saved_data["scale"].toOptional<double>(),
                             .soft_cap = context->saved_data["soft_cap"].toDouble()};
    const at::Tensor grad_q = at::zeros_like(q);
    const at::Tensor grad_k = at::zeros_like(k, accumulate_type(k)), grad_v = at::zeros_like(v, accumulate_type(v));
    for (const Block& block : blocks_of(q.size(0), q.size(2), k.size(2), visibility)) {
      const auto leaf = [](const at::Tensor& part) { return part.detach().requires_grad_(); };
      const variable_list inputs = {leaf(block.queries(q)), leaf(block.keys(k)), leaf(block.keys(v))};
      at::Tensor out;
      {
        const at::AutoGradMode with_grad(true);
        out = attend(inputs[0], inputs[1], inputs[2], visibility.window, scoring);
      }
      const variable_list gradients = torch::autograd::grad({out}, inputs, {block.queries(outputs[0])});
      block.queries(grad_q).copy_(gradients[0]);
      block.keys(grad_k).add_(gradients[1]);
      block.keys(grad_v).add_(gradients[2]);
    }
    return {grad_q, grad_k.to(k.scalar_type()), grad_v.to(v.scalar_type()), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor block_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Visibility& visibility,
                           const Scoring& scoring) {
  return BlockAttention::apply(q, k, v, visibility, scoring);
}

}  // namespace adept::nn
