#include "tests/support/operation_cases.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <optional>

#include "adept/nn/attention.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/embedding.h"
#include "adept/nn/gate.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"

namespace adept::test {
namespace {

using namespace adept::nn;  // what is tested
using Case = OperationCase;
using Inputs = OperationInputs;

at::Tensor randn(at::IntArrayRef sizes, at::ScalarType type) { return at::randn(sizes, at::kDouble).to(type); }

Case linear_case(std::int64_t tokens, std::int64_t in, std::int64_t out, bool bias) {
  const auto apply = [bias](auto function) {
    return [=](const Inputs& x) { return function(x[0], x[1], bias ? x[2] : at::Tensor()); };
  };
  return {fmt::format("Linear_{}x{}x{}{}", tokens, in, out, bias ? "_bias" : ""),
          [=](at::ScalarType t) {
            Inputs inputs = {randn({2, tokens, in}, t), randn({out, in}, t)};
            if (bias) inputs.push_back(randn({out}, t));
            return inputs;
          },
          apply(linear), apply(reference::linear)};
}

// Frozen weights, stored in bf16.
Case linears_case(std::int64_t tokens) {
  const Inputs weights = {randn({7, 24}, at::kBFloat16), randn({40, 24}, at::kBFloat16), randn({3, 24}, at::kBFloat16)};
  const at::Tensor bias = randn({40}, at::kDouble);
  return {fmt::format("Linears_{}x24", tokens), [=](at::ScalarType t) { return Inputs{randn({2, tokens, 24}, t)}; },
          [=](const Inputs& x) { return at::cat(linears({x[0]}, weights, {{}, bias.to(x[0].scalar_type()), {}}), -1); },
          [=](const Inputs& x) {
            return at::cat(
                {reference::linear(x[0], weights[0]), reference::linear(x[0], weights[1], bias.to(x[0].scalar_type())),
                 reference::linear(x[0], weights[2])},
                -1);
          }};
}

// Trained weights, whose input is made again.
Case gated_linears_case(std::int64_t tokens) {
  const auto gate = [](const auto& x) { return gated(x[0], x[1], Activation::kGeluTanh); };
  return {
      fmt::format("GatedLinears_{}x24", tokens),
      [=](at::ScalarType t) {
        return Inputs{randn({2, tokens, 24}, t), randn({2, tokens, 24}, t), randn({7, 24}, t), randn({40, 24}, t),
                      randn({40}, t)};
      },
      [=](const Inputs& x) { return at::cat(linears({gate(x), {x[0], x[1]}, gate}, {x[2], x[3]}, {{}, x[4]}), -1); },
      [](const Inputs& x) {
        const at::Tensor input = reference::gated(x[0], x[1], Activation::kGeluTanh);
        return at::cat({reference::linear(input, x[2]), reference::linear(input, x[3], x[4])}, -1);
      }};
}

Case normed_linears_case(std::int64_t tokens) {
  return {fmt::format("NormedLinears_{}x24", tokens),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, 24}, t), randn({24}, t), randn({7, 24}, t)}; },
          [](const Inputs& x) {
            const Input input = {
                rms_norm(x[0], x[1], 1e-5), {x[0], x[1]}, [](const auto& s) { return rms_norm(s[0], s[1], 1e-5); }};
            return linears(input, {x[2]}, {at::Tensor()}).front();
          },
          [](const Inputs& x) { return reference::linear(reference::rms_norm(x[0], x[1], 1e-5), x[2]); }};
}

Case embedding_case(std::int64_t tokens) {
  const at::Tensor ids = at::randint(0, 31, {2, tokens}, at::kLong);
  return {fmt::format("Embedding_{}", tokens), [](at::ScalarType t) { return Inputs{randn({31, 12}, t)}; },
          [=](const Inputs& x) { return nn::embedding(ids, x[0], x[0].scalar_type()); },
          [=](const Inputs& x) { return reference::embedding(ids, x[0]); }};
}

std::string name_of(GainConvention gain) {
  return gain == GainConvention::kRounded ? "" : gain == GainConvention::kWide ? "_wide" : "_onePlus";
}

Case norm_case(std::vector<std::int64_t> shape, double eps, GainConvention gain) {
  return {fmt::format("RmsNorm_{}x{}x{}_eps{}{}", shape[0], shape[1], shape[2], eps > 1e-3 ? "Large" : "Small",
                      name_of(gain)),
          [=](at::ScalarType t) { return Inputs{randn(shape, t) * 3, randn({shape.back()}, t)}; },
          [=](const Inputs& x) { return rms_norm(x[0], x[1], eps, gain); },
          [=](const Inputs& x) { return reference::rms_norm(x[0], x[1], eps, gain); }};
}

// Both results side by side: each has a gradient.
Case add_norm_case(std::vector<std::int64_t> shape, GainConvention gain) {
  return {fmt::format("AddRmsNorm_{}x{}x{}{}", shape[0], shape[1], shape[2], name_of(gain)),
          [=](at::ScalarType t) { return Inputs{randn(shape, t) * 3, randn(shape, t), randn({shape.back()}, t)}; },
          [=](const Inputs& x) {
            const NormedSum result = add_rms_norm(x[0], x[1], x[2], 1e-5, gain);
            return at::cat({result.sum, result.normed}, -1);
          },
          [=](const Inputs& x) {
            const at::Tensor sum = x[0] + x[1];
            return at::cat({sum, reference::rms_norm(sum, x[2], 1e-5, gain)}, -1);
          }};
}

// A share of each head's dimensions rotates, and all of those are scaled, as longrope does it.
RopeParameters partial_rope(double share) { return {.partial_rotary_factor = share, .attention_factor = 1.2}; }
std::string name_of(const RopeParameters& rope) {
  return rope.partial_rotary_factor < 1 ? fmt::format("_partly{:.0f}", 100 * rope.partial_rotary_factor) : "";
}

Case normed_rope_case(std::int64_t heads, std::int64_t tokens, std::int64_t head_dim, GainConvention gain,
                      const RopeParameters& rope = {}) {
  const auto tables = [=](const Inputs& x) { return rope_tables(rope, head_dim, tokens, x[0].scalar_type()); };
  return {fmt::format("NormedRope_{}x{}x{}{}{}", heads, tokens, head_dim, name_of(gain), name_of(rope)),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, heads, head_dim}, t), randn({head_dim}, t)}; },
          [=](const Inputs& x) { return normed_rope(x[0], x[1], 1e-3, tables(x), gain); },
          [=](const Inputs& x) {
            return reference::apply_rope(reference::rms_norm(x[0], x[1], 1e-3, gain).transpose(1, 2), tables(x));
          }};
}

Case rope_case(std::int64_t heads, std::int64_t tokens, std::int64_t head_dim, const RopeParameters& rope = {}) {
  const auto apply = [=](auto function) {
    return [=](const Inputs& x) {
      const RopeTables tables = rope_tables(rope, head_dim, tokens, x[0].scalar_type());
      return function(x[0].transpose(1, 2), tables);  // the layout that projections leave behind
    };
  };
  return {fmt::format("Rope_{}x{}x{}{}", heads, tokens, head_dim, name_of(rope)),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, heads, head_dim}, t)}; }, apply(apply_rope),
          apply(reference::apply_rope)};
}

Case gate_case(std::int64_t tokens, std::int64_t width, Activation activation) {
  return {fmt::format("{}_{}x{}", activation == Activation::kSilu ? "Swiglu" : "Geglu", tokens, width),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, width}, t) * 3, randn({2, tokens, width}, t)}; },
          [=](const Inputs& x) { return gated(x[0], x[1], activation); },
          [=](const Inputs& x) { return reference::gated(x[0], x[1], activation); }};
}

std::string name_of(const Scoring& scoring) {
  return fmt::format("{}{}", scoring.scale ? "_scaled" : "", scoring.soft_cap > 0 ? "_capped" : "");
}

struct AttentionShape {
  std::int64_t heads, kv_heads, queries, keys, head_dim, window;
  bool documents = false;
  bool grows = false;  ///< later keys have larger scores, by much more than the softmax of a block can take
  Scoring scoring{};
};

/// Of two sequences: a new document every 7 or every 150 tokens.
at::Tensor document_starts(const AttentionShape& s) {
  const at::Tensor position = at::arange(s.keys - s.queries, s.keys, at::kInt);
  const auto multiple = [&](std::int64_t n) { return position - position.remainder(n); };
  return at::stack({multiple(7), multiple(150)}).to(at::kInt);
}

Case attention_case(const AttentionShape& s) {
  const Visibility visibility = {.window = s.window,
                                 .document_starts = s.documents ? document_starts(s) : at::Tensor()};
  return {fmt::format("Attention_h{}kv{}_q{}k{}_e{}_w{}{}{}{}", s.heads, s.kv_heads, s.queries, s.keys, s.head_dim,
                      s.window, s.documents ? "_documents" : "", s.grows ? "_growing" : "", name_of(s.scoring)),
          [=](at::ScalarType t) {
            at::Tensor k = at::randn({2, s.kv_heads, s.keys, s.head_dim}, at::kDouble);
            if (s.grows) k = k * at::linspace(0.1, 12, s.keys, at::kDouble).unsqueeze(1);
            return Inputs{randn({2, s.heads, s.queries, s.head_dim}, t), k.to(t),
                          randn({2, s.kv_heads, s.keys, s.head_dim}, t)};
          },
          [=](const Inputs& x) { return causal_attention(x[0], x[1], x[2], visibility, s.scoring); },
          [=](const Inputs& x) { return reference::causal_attention(x[0], x[1], x[2], visibility, s.scoring); }};
}

Case normed_attention_case(const AttentionShape& s, GainConvention gain = GainConvention::kRounded,
                           const RopeParameters& rope = {}) {
  const Visibility visibility = {.window = s.window,
                                 .document_starts = s.documents ? document_starts(s) : at::Tensor()};
  const auto tables_for = [=](const Inputs& x) { return rope_tables(rope, s.head_dim, s.queries, x[0].scalar_type()); };
  const auto rotated = [=](const Inputs& x, std::size_t i) {
    return reference::apply_rope(reference::rms_norm(x[i], x[i + 3], 1e-3, gain).transpose(1, 2), tables_for(x));
  };
  return {fmt::format("NormedAttention_h{}kv{}_t{}_e{}_w{}{}{}{}{}", s.heads, s.kv_heads, s.queries, s.head_dim,
                      s.window, s.documents ? "_documents" : "", name_of(s.scoring), name_of(gain), name_of(rope)),
          [=](at::ScalarType t) {
            return Inputs{randn({2, s.queries, s.heads, s.head_dim}, t), randn({2, s.keys, s.kv_heads, s.head_dim}, t),
                          randn({2, s.kv_heads, s.keys, s.head_dim}, t), randn({s.head_dim}, t),
                          randn({s.head_dim}, t)};
          },
          [=](const Inputs& x) {
            return normed_attention(x[0], x[1], x[2], {x[3], x[4], 1e-3, gain}, tables_for(x), visibility, s.scoring);
          },
          [=](const Inputs& x) {
            return reference::causal_attention(rotated(x, 0), rotated(x, 1), x[2], visibility, s.scoring);
          }};
}

/// `ignored` of every `period` positions have no target.
Case cross_entropy_case(std::int64_t tokens, std::int64_t vocab, std::int64_t ignored, std::int64_t period,
                        double soft_cap = 0) {
  at::Tensor targets = at::randint(0, vocab, {2, tokens}, at::kLong);
  const at::Tensor position = at::arange(2 * tokens, at::kLong).view({2, tokens});
  targets.masked_fill_(position.remainder(period) < ignored, kIgnoreIndex);
  return {fmt::format("CrossEntropy_{}x{}_ignore{}of{}{}", tokens, vocab, ignored, period,
                      soft_cap > 0 ? fmt::format("_cap{:.0f}", soft_cap) : ""),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, 20}, t), randn({vocab, 20}, t)}; },
          [=](const Inputs& x) { return linear_cross_entropy(x[0], x[1], targets, soft_cap); },
          [=](const Inputs& x) { return reference::linear_cross_entropy(x[0], x[1], targets, soft_cap); }};
}

/// Some rows of a frozen table.
TrainedRows trained_rows(const std::vector<std::int64_t>& ids, const at::Tensor& values) {
  return {at::tensor(ids, at::kLong), values};
}

/// Of a frozen head of which only rows train; some are targets, some are not.
Case trained_rows_case(std::int64_t tokens, std::int64_t vocab, const std::vector<std::int64_t>& ids,
                       double soft_cap = 0) {
  at::Tensor targets = at::randint(0, vocab, {2, tokens}, at::kLong);
  targets.select(1, 0).fill_(ids.front());
  targets.select(1, tokens - 1).fill_(kIgnoreIndex);
  const at::Tensor head = at::randn({vocab, 20});
  return {fmt::format("CrossEntropyOfTrainedRows_{}x{}_{}{}", tokens, vocab, ids.size(),
                      soft_cap > 0 ? fmt::format("_cap{:.0f}", soft_cap) : ""),
          [=](at::ScalarType t) { return Inputs{randn({2, tokens, 20}, t), randn({std::ssize(ids), 20}, t)}; },
          [=](const Inputs& x) {
            return linear_cross_entropy(x[0], head.to(x[0].scalar_type()), targets, soft_cap, nullptr,
                                        trained_rows(ids, x[1]));
          },
          [=](const Inputs& x) {
            const at::Tensor table = head.to(x[0].scalar_type()).index_copy(0, at::tensor(ids, at::kLong), x[1]);
            return reference::linear_cross_entropy(x[0], table, targets, soft_cap);
          }};
}

Case embedding_of_trained_rows_case(std::int64_t tokens) {
  const at::Tensor ids = at::randint(0, 37, {2, tokens}, at::kLong), table = at::randn({37, 20});
  const std::vector<std::int64_t> trained = {0, 3, 4, 17, 36};
  return {fmt::format("EmbeddingOfTrainedRows_{}", tokens), [=](at::ScalarType t) { return Inputs{randn({5, 20}, t)}; },
          [=](const Inputs& x) {
            const at::ScalarType t = x[0].scalar_type();
            return embedding(ids, table.to(t), t, {.factor = 3}, trained_rows(trained, x[0]));
          },
          [=](const Inputs& x) {
            const at::Tensor whole = table.to(x[0].scalar_type()).index_copy(0, at::tensor(trained, at::kLong), x[0]);
            return reference::embedding(ids, whole) * 3;
          }};
}

}  // namespace

std::vector<Case> operation_cases() {
  at::manual_seed(7);
  std::vector<Case> cases;
  for (const std::int64_t tokens : {1, 17, 511}) {
    cases.push_back(linear_case(tokens, 24, 7, false));
    cases.push_back(linear_case(tokens, 9, 40, true));
    cases.push_back(linears_case(tokens));
    cases.push_back(gated_linears_case(tokens));
    cases.push_back(normed_linears_case(tokens));
    cases.push_back(embedding_case(tokens));
    for (const auto activation : {Activation::kSilu, Activation::kGeluTanh})
      cases.push_back(gate_case(tokens, 13, activation));
    for (const auto gain : {GainConvention::kRounded, GainConvention::kWide, GainConvention::kOnePlus}) {
      cases.push_back(norm_case({2, tokens, 72}, 1e-6, gain));
      cases.push_back(add_norm_case({2, tokens, 72}, gain));
      cases.push_back(normed_rope_case(3, tokens, 10, gain));
    }
    cases.push_back(rope_case(3, tokens, 10));
    cases.push_back(rope_case(3, tokens, 10, partial_rope(0.6)));
    cases.push_back(cross_entropy_case(tokens, 37, 0, 3));
    cases.push_back(cross_entropy_case(tokens, 37, 1, 3));
    cases.push_back(cross_entropy_case(tokens, 37, 3, 3));
    for (const std::int64_t window : {0, 1, 5, 600}) cases.push_back(attention_case({9, 3, tokens, tokens, 8, window}));
  }
  cases.push_back(norm_case({1, 3, 1}, 0.5, GainConvention::kRounded));
  cases.push_back(norm_case({1, 5, 576}, 1e-5, GainConvention::kRounded));
  cases.push_back(add_norm_case({1, 5, 5000},
                                GainConvention::kRounded));  // a row is more than is done at a time
  cases.push_back(add_norm_case({3, 7, 1}, GainConvention::kRounded));
  cases.push_back(rope_case(1, 17, 80));
  cases.push_back(normed_rope_case(9, 17, 80, GainConvention::kRounded));
  cases.push_back(rope_case(9, 17, 2));
  cases.push_back(rope_case(9, 17, 80, partial_rope(0.75)));
  cases.push_back(normed_rope_case(9, 17, 80, GainConvention::kRounded, partial_rope(0.25)));
  cases.push_back(attention_case({1, 1, 17, 17, 80, 0}));
  cases.push_back(attention_case({9, 1, 17, 17, 80, 4}));
  cases.push_back(attention_case({3, 3, 511, 511, 16, 100}));
  cases.push_back(attention_case({3, 1, 300, 300, 33, 0}));  // no multiple of any vector
  cases.push_back(attention_case({2, 2, 130, 130, 256, 0}));
  for (const std::int64_t window : {0, 5, 70}) {
    cases.push_back(attention_case({4, 2, 511, 511, 32, window, true}));
    cases.push_back(attention_case({4, 2, 50, 190, 32, window, true}));
  }
  // Blocks of keys that end within a tile of queries, and a last tile with an odd number of them, down to one.
  cases.push_back(attention_case({4, 2, 85, 190, 32, 0}));
  cases.push_back(attention_case({4, 2, 85, 190, 32, 20, true}));
  cases.push_back(attention_case({3, 1, 86, 191, 33, 0}));
  cases.push_back(attention_case({4, 2, 49, 190, 32, 0, true}));
  // So many keys that several tiles of queries go over them together.
  cases.push_back(attention_case({2, 1, 300, 600, 256, 0}));
  cases.push_back(attention_case({2, 1, 257, 700, 200, 150, true}));
  cases.push_back(attention_case({1, 1, 530, 530, 250, 0}));
  cases.push_back(attention_case({3, 1, 97, 97, 33, 60}));
  for (const std::int64_t window : {0, 90}) cases.push_back(attention_case({4, 2, 300, 300, 64, window, false, true}));
  cases.push_back(attention_case({2, 2, 150, 200, 128, 0, true, true}));
  for (const std::int64_t tokens : {1, 17, 150}) cases.push_back(normed_attention_case({4, 2, tokens, tokens, 16, 0}));
  cases.push_back(normed_attention_case({9, 3, 150, 150, 80, 20, true}));
  cases.push_back(normed_attention_case(
      {.heads = 4, .kv_heads = 1, .queries = 70, .keys = 70, .head_dim = 24, .window = 30, .scoring = {.scale = 0.05}},
      GainConvention::kOnePlus, partial_rope(0.5)));
  for (const std::int64_t queries : {1, 5, 190})  // as a step of generation, a few, and by the kernel
    cases.push_back(attention_case({.heads = 4,
                                    .kv_heads = 2,
                                    .queries = queries,
                                    .keys = 190,
                                    .head_dim = 32,
                                    .window = 0,
                                    .scoring = {.scale = 0.4}}));
  // Scores far below, near and beyond their cap.
  for (const double soft_cap : {0.7, 5.0, 50.0})
    for (const std::int64_t queries : {1, 5, 190})
      cases.push_back(attention_case({.heads = 4,
                                      .kv_heads = 2,
                                      .queries = queries,
                                      .keys = 190,
                                      .head_dim = 32,
                                      .window = soft_cap == 5 ? 60 : 0,
                                      .documents = soft_cap > 1,
                                      .scoring = {.scale = 0.4, .soft_cap = soft_cap}}));
  cases.push_back(attention_case({.heads = 3,
                                  .kv_heads = 1,
                                  .queries = 257,
                                  .keys = 700,
                                  .head_dim = 200,
                                  .window = 150,
                                  .grows = true,
                                  .scoring = {.soft_cap = 4}}));
  cases.push_back(normed_attention_case({.heads = 4,
                                         .kv_heads = 1,
                                         .queries = 70,
                                         .keys = 70,
                                         .head_dim = 24,
                                         .window = 30,
                                         .scoring = {.soft_cap = 1.5}}));
  cases.push_back(attention_case({6, 2, 1, 40, 16, 0}));  // steps of generation: fewer queries than keys
  cases.push_back(attention_case({6, 2, 1, 40, 16, 7}));
  cases.push_back(attention_case({6, 2, 5, 40, 16, 0}));
  cases.push_back(attention_case({6, 2, 5, 40, 16, 7}));
  cases.push_back(cross_entropy_case(1500, 5000, 1, 5));  // several blocks of the vocabulary
  cases.push_back(cross_entropy_case(2500, 37, 0, 3));    // several chunks of tokens
  for (const double soft_cap : {3, 30}) cases.push_back(cross_entropy_case(17, 61, 0, 3, soft_cap));
  cases.push_back(cross_entropy_case(500, 5000, 1, 5, 3));
  for (const double soft_cap : {0, 3}) {
    cases.push_back(trained_rows_case(17, 61, {0, 5, 6, 60}, soft_cap));
    cases.push_back(trained_rows_case(17, 61, {33}, soft_cap));
  }
  cases.push_back(trained_rows_case(1500, 5000, {7, 2000, 2001, 4999}));  // in several blocks of the vocabulary
  for (const std::int64_t tokens : {1, 17, 511}) cases.push_back(embedding_of_trained_rows_case(tokens));
  return cases;
}

}  // namespace adept::test
