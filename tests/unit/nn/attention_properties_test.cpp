// What holds for attention beyond agreement with the reference.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>
#include <vector>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/attention.h"
#include "adept/nn/kernels.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

TEST(CausalMask, ShowsTheLastWindowKeysUpToTheQueryItself) {
  const at::Tensor expected =
      at::tensor({0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1}, at::kLong).view({3, 5}).to(at::kBool);
  EXPECT_TRUE(causal_mask(3, 5, {.window = 2}, at::kCPU)[0][0].equal(expected));
  EXPECT_EQ(causal_mask(4, 4, {}, at::kCPU).sum().item<int>(), 10);
}

TEST(CausalAttention, FutureTokensChangeNothing) {
  at::manual_seed(3);
  const at::Tensor q = at::randn({1, 4, 9, 8}), k = at::randn({1, 2, 9, 8}), v = at::randn({1, 2, 9, 8});
  for (const std::int64_t window : {0, 3}) {
    const at::Tensor before = causal_attention(q, k, v, {.window = window});
    at::Tensor k2 = k.clone(), v2 = v.clone();
    k2.narrow(2, 6, 3).fill_(100);
    v2.narrow(2, 6, 3).fill_(-100);
    EXPECT_TRUE(causal_attention(q, k2, v2, {.window = window}).narrow(2, 0, 6).equal(before.narrow(2, 0, 6)));
  }
}

TEST(CausalAttention, WhatIsNotANumberReachesEveryQueryThatSeesItAndNoOther) {
  at::manual_seed(3);
  const at::Tensor q = at::randn({1, 1, 150, 8}), v = at::randn({1, 1, 150, 8});
  for (const std::int64_t bad : {0, 20, 63, 64, 140}) {
    at::Tensor k = at::randn({1, 1, 150, 8});
    k[0][0][bad].fill_(std::numeric_limits<float>::quiet_NaN());
    const at::Tensor is_nan = causal_attention(q, k, v)[0][0].isnan().any(1);
    EXPECT_EQ(is_nan.narrow(0, 0, bad).sum().item<std::int64_t>(), 0) << bad;
    EXPECT_EQ(is_nan.narrow(0, bad, 150 - bad).sum().item<std::int64_t>(), 150 - bad) << bad;
  }
  at::Tensor k = at::full({1, 1, 150, 8}, std::numeric_limits<float>::quiet_NaN());
  k.narrow(2, 64, 86).fill_(1);  // a whole block, the first
  EXPECT_TRUE(causal_attention(q, k, v).isnan().all().item<bool>());
}

TEST(CausalAttention, AWindowOfTheWholeTextIsNoWindow) {
  at::manual_seed(3);
  const at::Tensor q = at::randn({2, 4, 33, 8}), k = at::randn({2, 2, 33, 8}), v = at::randn({2, 2, 33, 8});
  EXPECT_TRUE(causal_attention(q, k, v, {.window = 33}).equal(causal_attention(q, k, v)));
  EXPECT_FALSE(causal_attention(q, k, v, {.window = 32}).equal(causal_attention(q, k, v)));
}

// The work on one key-value head is split where its heads do not divide among the threads.
TEST(CausalAttention, GivesTheSameOnAnyNumberOfThreads) {
  struct Shape {
    std::int64_t batch, heads, kv_heads, queries, keys, head_dim;
    bool documents;
    std::vector<int> threads;
  };
  const at::Tensor starts = (at::arange(149) >= 60).to(at::kInt).mul(60).add(50).expand({2, 149}).contiguous();
  const std::vector<Shape> shapes = {{1, 2, 1, 199, 199, 33, false, {1, 2, 3, 8}},
                                     {2, 6, 3, 149, 199, 33, true, {1, 4, 5, 8}},
                                     {1, 2, 1, 450, 600, 240, false, {1, 2, 3, 8}}};
  const int threads_before = at::get_num_threads();
  for (const Shape& s : shapes)
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      at::manual_seed(3);
      Visibility visibility = {.window = 150};
      if (s.documents) visibility.document_starts = starts;
      const auto input = [&](std::int64_t heads, std::int64_t positions) {
        return at::randn({s.batch, heads, positions, s.head_dim}).to(type).requires_grad_();
      };
      const at::Tensor q = input(s.heads, s.queries), k = input(s.kv_heads, s.keys), v = input(s.kv_heads, s.keys);
      const at::Tensor direction = input(s.heads, s.queries).detach();
      std::vector<at::Tensor> values;
      std::vector<std::vector<at::Tensor>> gradients;
      for (const int threads : s.threads) {
        at::set_num_threads(threads);
        values.push_back(causal_attention(q, k, v, visibility));
        gradients.push_back(torch::autograd::grad({values.back()}, {q, k, v}, {direction}));
        EXPECT_TRUE(values.back().equal(values.front())) << threads;
        EXPECT_TRUE(gradients.back()[0].equal(gradients.front()[0])) << threads;
        for (std::size_t i = 1; i < 3; ++i)  // sums in fp32 in another order, and in bf16 one rounding
          EXPECT_TRUE(test::is_close(gradients.back()[i], gradients.front()[i], type == at::kFloat ? 1e-6 : 0x1p-7))
              << threads << " threads, " << i;
      }
    }
  at::set_num_threads(threads_before);
}

// Which inputs want a gradient decides what is saved and made again.
TEST(NormedAttention, IsTheCompositionBitForBitWhateverWantsAGradient) {
  at::manual_seed(3);
  const std::vector<at::Tensor> values = {at::randn({2, 70, 4, 16}), at::randn({2, 70, 2, 16}),
                                          at::randn({2, 2, 70, 16}), at::randn({16}), at::randn({16})};
  const RopeTables tables = rope_tables({}, 16, 70);
  const at::Tensor direction = at::randn({2, 4, 70, 16});
  const auto rotated = [&](const at::Tensor& x, const at::Tensor& norm) {
    return apply_rope(rms_norm(x, norm, 1e-5).transpose(1, 2), tables);
  };
  for (unsigned wanted = 1; wanted < 32; ++wanted) {
    std::vector<std::vector<at::Tensor>> gradients;
    std::vector<at::Tensor> results;
    for (const bool at_once : {true, false}) {
      std::vector<at::Tensor> x, leaves;
      for (std::size_t i = 0; i < values.size(); ++i) {
        x.push_back(values[i].clone().requires_grad_((wanted >> i & 1) != 0));
        if (x.back().requires_grad()) leaves.push_back(x.back());
      }
      results.push_back(at_once ? normed_attention(x[0], x[1], x[2], {x[3], x[4], 1e-5}, tables, {.window = 30})
                                : causal_attention(rotated(x[0], x[3]), rotated(x[1], x[4]), x[2], {.window = 30}));
      gradients.push_back(torch::autograd::grad({results.back()}, leaves, {direction}));
    }
    EXPECT_TRUE(results[0].equal(results[1])) << wanted;
    for (std::size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_TRUE(gradients[0][i].equal(gradients[1][i])) << wanted << ", " << i;
  }
}

TEST(NormedAttention, SavesNoMoreThanWhatItIsGiven) {
  use_caching_allocator();
  const at::Tensor q = at::randn({1, 256, 8, 64}).requires_grad_(), k = at::randn({1, 256, 8, 64}).requires_grad_();
  const at::Tensor v = at::randn({1, 8, 256, 64}), gain = at::ones({64});
  const RopeTables tables = rope_tables({}, 64, 256);
  const auto kept = [&](const auto& attend) {
    attend();  // the kernels' workspace is there from now on
    const std::int64_t before = tensor_memory(at::kCPU).in_use - thread_workspace_bytes();
    const at::Tensor graph = attend().sum();  // which needs no output
    return tensor_memory(at::kCPU).in_use - thread_workspace_bytes() - before;
  };
  const auto bytes = static_cast<std::int64_t>(q.nbytes());
  EXPECT_LT(kept([&] { return normed_attention(q, k, v, {gain, gain, 1e-5}, tables); }), bytes / 8)
      << "a number for each row";
  EXPECT_LT(kept([&] { return causal_attention(q.transpose(1, 2), k.transpose(1, 2), v); }), bytes / 8);
  EXPECT_GT(kept([&] {
              return causal_attention(apply_rope(rms_norm(q, gain, 1e-5).transpose(1, 2), tables),
                                      apply_rope(rms_norm(k, gain, 1e-5).transpose(1, 2), tables), v);
            }),
            2 * bytes);
}

TEST(CausalAttention, RefusesMoreQueriesThanKeys) {
  const at::Tensor q = at::zeros({1, 2, 4, 8}), k = at::zeros({1, 2, 3, 8});
  EXPECT_THROW(causal_attention(q, k, k), InternalError);
}

}  // namespace
}  // namespace adept::nn
