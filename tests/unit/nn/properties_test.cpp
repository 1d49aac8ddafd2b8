// What holds for single operations beyond agreement with the reference.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <map>
#include <thread>
#include <vector>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/attention.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "adept/nn/square_sum.h"
#include "adept/nn/swiglu.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

TEST(SquareSum, IsThatOfTheReferenceForAnySizeAndType) {
  at::manual_seed(3);
  constexpr std::int64_t kBlock = kernels::SquareSums::kBlock;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const std::int64_t size : {std::int64_t{0}, std::int64_t{1}, std::int64_t{17}, kBlock, 3 * kBlock + 5}) {
      const std::vector<at::Tensor> x = {at::randn({size}).to(type), at::randn({24, 40}).to(type).t()};
      const double expected = reference::square_sum(x);
      EXPECT_GT(expected, 0);
      EXPECT_NEAR(square_sum(x), expected, 1e-12 * expected) << size << " of " << type;
    }
  EXPECT_EQ(square_sum(std::vector<at::Tensor>{}), 0);
  EXPECT_NEAR(square_sum(at::full({100}, 1e30f)), 1e62, 1e55) << "beyond the range of fp32";
  EXPECT_TRUE(std::isnan(square_sum(at::full({100}, std::numeric_limits<float>::quiet_NaN()))));
}

TEST(SquareSum, IsTheSameOnAnyNumberOfThreads) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({100 * kernels::SquareSums::kBlock + 3});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double expected = square_sum(x);
  at::set_num_threads(2);
  EXPECT_EQ(square_sum(x), expected);
  at::set_num_threads(threads);
}

TEST(CrossEntropy, OfALargeVocabularyLosesNoSmallTerms) {
  at::manual_seed(3);
  const at::Tensor hidden = at::randn({4, 16}), head = at::randn({49152, 16}), targets = at::arange(4);
  const at::Tensor exact =
      reference::linear_cross_entropy_per_token(hidden.to(at::kDouble), head.to(at::kDouble), targets);
  for (const at::Tensor& loss : {reference::linear_cross_entropy_per_token(hidden, head, targets),
                                 linear_cross_entropy_per_token(hidden, head, targets)})
    EXPECT_LT((loss - exact).abs().max().item<float>(), 4e-6) << loss << exact;
}

TEST(ThreadWorkspace, IsGivenBackByAllThreads) {
  kernels::functions();  // throws here, not in the thread, where the processor has not what is asked for
  std::thread([] {       // has threads of its own
    const std::int64_t before = thread_workspace_bytes();
    at::set_num_threads(2);
    const at::Tensor x = at::randn({2, 2, 40, 32});
    causal_attention(x, x, x);
    EXPECT_GT(thread_workspace_bytes(), before);
    release_thread_workspaces();
    EXPECT_EQ(thread_workspace_bytes(), before);
  })
      .join();
}

TEST(Linear, AFrozenWeightStoredInANarrowerTypeGivesTheBitsOfTheWideOne) {
  at::manual_seed(3);
  for (const at::ScalarType stored : {at::kBFloat16, at::kHalf})
    for (const std::int64_t tokens : {1, 5, 300}) {
      const at::Tensor weight = at::randn({24, 40}).to(stored), wide = weight.to(at::kFloat);
      const at::Tensor bias = at::randn({24}), direction = at::randn({2, tokens, 24});
      const at::Tensor x = at::randn({2, tokens, 40}), b = bias.clone().requires_grad_();
      const at::Tensor found_x = x.clone().requires_grad_(), expected_x = x.clone().requires_grad_();
      const at::Tensor found = linear(found_x, weight, b), expected = linear(expected_x, wide, bias);
      EXPECT_TRUE(found.equal(expected));
      EXPECT_TRUE(linear(x, weight, bias).equal(expected)) << "without a graph";
      found.backward(direction);
      expected.backward(direction);
      EXPECT_TRUE(found_x.grad().equal(expected_x.grad()));
      EXPECT_TRUE(test::is_close(b.grad(), direction.sum({0, 1}), 1e-5));
      EXPECT_TRUE(test::is_close(reference::linear(x, weight, bias), expected, 2e-5));
    }
}

TEST(Linear, TakesNoOtherMixtureOfTypes) {
  const at::Tensor x = at::randn({2, 4}), weight = at::randn({3, 4});
  EXPECT_THROW(linear(x, weight.to(at::kBFloat16).requires_grad_()), InternalError);
  EXPECT_THAT(
      [&] { linear(x.to(at::kBFloat16), weight); },  // it would be rounded
      testing::ThrowsMessage<InternalError>(testing::HasSubstr("a frozen weight of Float with inputs of BFloat16")));
  EXPECT_THROW(linear(x.to(at::kBFloat16), weight.to(at::kHalf)), InternalError);
}

TEST(Linear, HasAnAdapterOrNoneForEachProjection) {
  const at::Tensor x = at::randn({2, 4});
  EXPECT_THAT(
      [&] {
        with_adapters({x, x}, {x}, {LoraAdapter{}});
      },
      testing::ThrowsMessage<InternalError>(testing::HasSubstr("2 projections and 1 adapters")));
  const std::vector<at::Tensor> same = with_adapters({x}, {x}, {LoraAdapter{}});
  EXPECT_TRUE(same.front().is_same(x));
}

// Adapters of one input, of which one has none: each projection gets what it would get alone.
TEST(Linear, OfSeveralAdaptersIsThatOfEachAlone) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({5, 8}), y = at::randn({5, 6});
  const auto adapter = [] { return LoraAdapter{.a = at::randn({2, 8}), .b = at::randn({6, 2}), .scale = 0.5}; };
  const std::vector<LoraAdapter> adapters = {adapter(), LoraAdapter{}, adapter()};
  const std::vector<at::Tensor> all = with_adapters({y, y, y}, {x}, adapters);
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const LoraAdapter& a = adapters[i];
    const at::Tensor expected = a.a.defined() ? y + 0.5 * x.mm(a.a.t()).mm(a.b.t()) : y;
    EXPECT_TRUE(test::is_close(all[i], expected, 1e-5)) << i;
  }
}

TEST(Linear, KeepsNoInputThatCanBeMadeAgainAndHasTheSameGradients) {
  use_caching_allocator();  // it counts
  at::manual_seed(3);
  const std::int64_t tokens = 500, in = 1024, bytes = 4 * tokens * in;
  const at::Tensor gate = at::randn({tokens, in}), up = at::randn({tokens, in});
  std::map<bool, std::vector<at::Tensor>> gradients;
  std::map<bool, std::int64_t> kept;
  for (const bool remade : {false, true}) {
    const at::Tensor g = gate.clone().requires_grad_(), u = up.clone().requires_grad_();
    at::manual_seed(4);
    const at::Tensor weight = at::randn({8, in}).requires_grad_();
    const std::int64_t before = tensor_memory().in_use;
    at::Tensor loss;
    {
      Input input = {swiglu(g, u)};
      if (remade) input = {input.value, {g, u}, [](const auto& sources) { return swiglu(sources[0], sources[1]); }};
      loss = linears(input, {weight}, {at::Tensor()}).front().square().sum();
    }
    kept[remade] = tensor_memory().in_use - before;
    loss.backward();
    gradients[remade] = {g.grad(), u.grad(), weight.grad()};
  }
  EXPECT_GE(kept[false], bytes);
  EXPECT_LT(kept[true], bytes / 10);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(gradients[true][i].equal(gradients[false][i])) << i;
}

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

// The work on one key-value head is cut into parts where its heads do not divide among the threads.
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
  EXPECT_LT(kept([&] {
              return normed_attention(q, k, v, {gain, gain, 1e-5}, tables);
            }),
            bytes / 8)
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

TEST(Rope, PositionZeroTurnsNothing) {
  const at::Tensor x = at::randn({1, 2, 1, 8});
  EXPECT_TRUE(apply_rope(x, rope_tables({}, 8, 1)).equal(x));
}

TEST(Rope, KeepsTheLengthOfEveryPair) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({1, 2, 50, 8});
  const auto pair_norms = [](const at::Tensor& t) { return t.view({1, 2, 50, 2, 4}).square().sum(3); };
  EXPECT_TRUE(test::is_close(pair_norms(apply_rope(x, rope_tables({}, 8, 50))), pair_norms(x), 1e-5));
}

TEST(Rope, ScoresDependOnTheDistanceOnly) {
  at::manual_seed(3);
  const at::Tensor q = at::randn({1, 1, 1, 16}).expand({1, 1, 40, 16}),
                   k = at::randn({1, 1, 1, 16}).expand({1, 1, 40, 16});
  const RopeTables tables = rope_tables({}, 16, 40);
  const at::Tensor scores = apply_rope(q, tables).matmul(apply_rope(k, tables).transpose(2, 3)).squeeze();
  EXPECT_TRUE(test::is_close(scores.diagonal(-3), at::full({37}, scores[3][0].item<double>()), 1e-5));
}

TEST(Rope, LinearScalingStretchesPositions) {
  const RopeTables plain = rope_tables({}, 8, 10);
  const RopeTables stretched = rope_tables({.type = RopeType::kLinear, .factor = 4}, 8, 37);
  EXPECT_TRUE(test::is_close(stretched.cos[36], plain.cos[9], 1e-5));
  EXPECT_TRUE(test::is_close(stretched.sin[20], plain.sin[5], 1e-5));
}

TEST(Rope, Llama3KeepsShortWavelengthsAndStretchesLongOnes) {
  const RopeParameters p{.type = RopeType::kLlama3,
                         .theta = 500000,
                         .factor = 8,
                         .low_freq_factor = 1,
                         .high_freq_factor = 4,
                         .original_max_position_embeddings = 8192};
  const at::Tensor plain = rope_frequencies({.theta = 500000}, 128), scaled = rope_frequencies(p, 128);
  const at::Tensor ratio = scaled / plain;
  EXPECT_EQ(ratio[0].item<float>(), 1);
  EXPECT_FLOAT_EQ(ratio[63].item<float>(), 0.125F);
  EXPECT_TRUE((ratio.diff() <= 1e-6).all().item<bool>());  // no jump up between the bands
  EXPECT_GT(((ratio > 0.13) & (ratio < 0.99)).sum().item<int>(), 0);
}

TEST(RmsNorm, NormalisesInFp32AndRoundsBeforeTheWeight) {
  const at::Tensor x = at::full({1, 4}, 3e30, at::kBFloat16);  // its square overflows nothing if the norm is scaled
  const at::Tensor small = at::full({1, 4}, 1.2345678, at::kBFloat16);
  const at::Tensor weight = at::full({4}, 1.0078125, at::kBFloat16);
  const at::Tensor expected = reference::rms_norm(small, weight, 1e-6);
  EXPECT_TRUE(rms_norm(small, weight, 1e-6).equal(expected));
  EXPECT_EQ(rms_norm(x, weight, 1e-6).scalar_type(), at::kBFloat16);
}

TEST(RmsNorm, OfZerosIsZeroWithAFiniteGradient) {
  const at::Tensor x = at::zeros({2, 6}).requires_grad_();
  const at::Tensor weight = at::ones({6});
  const at::Tensor y = rms_norm(x, weight, 1e-6);
  y.sum().backward();
  EXPECT_EQ(y.abs().max().item<float>(), 0);
  EXPECT_TRUE(test::is_close(x.grad(), at::full({2, 6}, 1000.0), 1e-5));
}

// Recomputation relies on it: a layer that it starts with is not fused with what is below.
TEST(AddRmsNorm, IsTheSumAndItsNormBitForBitWhateverWantsAGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(3);
    const at::Tensor values[] = {at::randn({2, 300, 72}).to(type), at::randn({2, 300, 72}).to(type),
                                 at::randn({72}).to(type)};
    const std::vector<at::Tensor> directions = {at::randn({2, 300, 72}).to(type), at::randn({2, 300, 72}).to(type)};
    for (int wanted = 0; wanted < 8; ++wanted) {
      const auto run = [&](bool fused) {
        std::vector<at::Tensor> inputs, leaves;
        for (int i = 0; i < 3; ++i) {
          inputs.push_back(values[i].clone().set_requires_grad((wanted >> i & 1) != 0));
          if (inputs.back().requires_grad()) leaves.push_back(inputs.back());
        }
        NormedSum y;
        if (fused) {
          y = add_rms_norm(inputs[0], inputs[1], inputs[2], 1e-5);
        } else {
          y.sum = inputs[0] + inputs[1];
          y.normed = rms_norm(y.sum, inputs[2], 1e-5);
        }
        std::vector<at::Tensor> results = {y.sum, y.normed};
        if (leaves.empty()) return results;
        const bool sums = y.sum.requires_grad();
        const auto gradients = sums ? torch::autograd::grad({y.sum, y.normed}, leaves, directions)
                                    : torch::autograd::grad({y.normed}, leaves, {directions[1]});
        results.insert(results.end(), gradients.begin(), gradients.end());
        return results;
      };
      const auto found = run(true), expected = run(false);
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(test::same_bits(found[i], expected[i])) << wanted << " " << i;
    }
  }
}

TEST(AddRmsNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::zeros({2, 8}), gain = at::ones({8});
  EXPECT_THROW(add_rms_norm(x, at::zeros({3, 8}), gain, 1e-5), InternalError);
  EXPECT_THROW(add_rms_norm(x, x.to(at::kBFloat16), gain, 1e-5), InternalError);
  EXPECT_THROW(add_rms_norm(x, x, gain.to(at::kBFloat16), 1e-5), InternalError);
}

TEST(NormedRope, RefusesAGainOfAnotherType) {
  const at::Tensor x = at::zeros({1, 4, 2, 8}), gain = at::ones({8}).to(at::kBFloat16);
  EXPECT_THROW(normed_rope(x, gain, 1e-5, rope_tables({}, 8, 4)), InternalError);
}

TEST(NormedRope, IsTheNormAndTheRotationBitForBit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(3);
    const at::Tensor x = at::randn({2, 33, 3, 24}).to(type), gain = at::randn({24}).to(type);
    const at::Tensor direction = at::randn({2, 3, 33, 24}).to(type);
    const RopeTables tables = rope_tables({}, 24, 33, type);
    const auto run = [&](bool fused) {
      const at::Tensor a = x.clone().set_requires_grad(true), g = gain.clone().set_requires_grad(true);
      const at::Tensor y =
          fused ? normed_rope(a, g, 1e-5, tables) : apply_rope(rms_norm(a, g, 1e-5).transpose(1, 2), tables);
      const auto gradients = torch::autograd::grad({y}, {a, g}, {direction});
      return std::vector<at::Tensor>{y.contiguous(), gradients[0], gradients[1]};
    };
    const auto found = run(true), expected = run(false);
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(test::same_bits(found[i], expected[i])) << i;
    EXPECT_TRUE(test::same_bits(normed_rope(x, gain, 1e-5, tables).contiguous(), expected[0])) << "without a graph";
  }
}

TEST(Operations, BuildNoGraphOverFrozenInputs) {
  const at::Tensor x = at::randn({1, 2, 3, 4}), w = at::randn({4});
  EXPECT_FALSE(rms_norm(x, w, 1e-6).requires_grad());
  EXPECT_FALSE(swiglu(x, x).requires_grad());
  EXPECT_FALSE(apply_rope(x, rope_tables({}, 4, 3)).requires_grad());
  EXPECT_FALSE(linear_cross_entropy(at::randn({3, 4}), at::randn({5, 4}), at::zeros({3}, at::kLong)).requires_grad());
}

TEST(Operations, FrozenWeightsGetNoGradient) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({2, 3, 4}).requires_grad_();
  const at::Tensor norm = at::randn({4}), head = at::randn({9, 4});
  linear_cross_entropy(rms_norm(x, norm, 1e-6), head, at::randint(0, 9, {2, 3}, at::kLong)).backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(norm.grad().defined());
  EXPECT_FALSE(head.grad().defined());
}

TEST(Operations, RefuseASecondDerivative) {
  const at::Tensor x = at::randn({2, 4}).requires_grad_();
  const at::Tensor loss = swiglu(x, x).sum();
  EXPECT_THROW(torch::autograd::grad({loss}, {x}, {}, std::nullopt, /*create_graph=*/true), InternalError);
}

TEST(CrossEntropy, PerTokenLossesSumToTheSum) {
  at::manual_seed(3);
  const at::Tensor hidden = at::randn({2, 9, 8}), head = at::randn({31, 8});
  at::Tensor targets = at::randint(0, 31, {2, 9}, at::kLong);
  targets.narrow(1, 4, 3).fill_(kIgnoreIndex);
  const at::Tensor losses = linear_cross_entropy_per_token(hidden, head, targets);
  EXPECT_EQ(losses.sizes(), targets.sizes());
  EXPECT_EQ(losses.scalar_type(), at::kFloat);
  EXPECT_EQ(losses.narrow(1, 4, 3).abs().max().item<float>(), 0);
  EXPECT_TRUE(test::is_close(losses, reference::linear_cross_entropy_per_token(hidden, head, targets), 1e-5));
  EXPECT_TRUE(test::is_close(losses.sum(), linear_cross_entropy(hidden, head, targets), 1e-6));
}

TEST(CrossEntropy, OfAFrozenHeadStoredInANarrowerTypeIsThatOfTheWideOneBitForBit) {
  at::manual_seed(3);
  for (const at::ScalarType stored : {at::kBFloat16, at::kHalf}) {
    const at::Tensor head = at::randn({6000, 16}).to(stored), wide = head.to(at::kFloat);
    const at::Tensor hidden = at::randn({2100, 16}), targets = at::randint(0, 6000, {2100}, at::kLong);
    targets.narrow(0, 100, 50).fill_(kIgnoreIndex);
    const at::Tensor found_hidden = hidden.clone().requires_grad_(), expected_hidden = hidden.clone().requires_grad_();
    const at::Tensor found = linear_cross_entropy(found_hidden, head, targets),
                     expected = linear_cross_entropy(expected_hidden, wide, targets);
    EXPECT_TRUE(found.equal(expected));
    found.backward();
    expected.backward();
    EXPECT_TRUE(found_hidden.grad().equal(expected_hidden.grad()));
    EXPECT_TRUE(linear_cross_entropy_per_token(hidden, head, targets)
                    .equal(linear_cross_entropy_per_token(hidden, wide, targets)));
    EXPECT_TRUE(test::is_close(reference::linear_cross_entropy(hidden, head, targets), expected, 1e-5));
    const at::Tensor double_hidden = hidden.to(at::kDouble);  // for which there is no kernel
    EXPECT_TRUE(linear_cross_entropy(double_hidden, head, targets)
                    .equal(linear_cross_entropy(double_hidden, head.to(at::kDouble), targets)));
  }
}

TEST(CrossEntropy, OfFewTokensNeverWidensMoreThanABlockOfTheHead) {
  use_caching_allocator();  // it counts
  const std::int64_t width = 256, vocabulary = 100'000, block_bytes = 4 * (std::int64_t{4} << 20);
  const at::Tensor head = at::randn({vocabulary, width}).to(at::kBFloat16);
  for (const std::int64_t tokens : {0, 1, 8}) {
    const at::Tensor hidden = at::randn({tokens, width}), targets = at::randint(0, vocabulary, {tokens}, at::kLong);
    reset_peak_tensor_memory();
    const std::int64_t before = tensor_memory().in_use;
    linear_cross_entropy_per_token(hidden, head, targets);
    EXPECT_LT(tensor_memory().peak - before, block_bytes * 5 / 4) << "the whole head is " << 4 * vocabulary * width;
  }
}

TEST(CrossEntropy, TakesNoOtherMixtureOfTypes) {
  const at::Tensor hidden = at::randn({2, 4}), head = at::randn({3, 4}), targets = at::zeros({2}, at::kLong);
  EXPECT_THROW(linear_cross_entropy(hidden, head.to(at::kBFloat16).requires_grad_(), targets), InternalError);
  EXPECT_THROW(linear_cross_entropy(hidden.to(at::kBFloat16), head, targets), InternalError) << "it would be rounded";
  EXPECT_THROW(linear_cross_entropy_per_token(hidden.to(at::kBFloat16), head, targets), InternalError);
}

TEST(CrossEntropy, APositionWithoutTargetChangesNothing) {
  at::manual_seed(3);
  at::Tensor hidden = at::randn({1, 6, 8});
  const at::Tensor head = at::randn({31, 8}), targets = at::tensor({3, -100, 4, -100, 5, 6}, at::kLong).view({1, 6});
  const at::Tensor before = linear_cross_entropy(hidden, head, targets);
  hidden.select(1, 1).fill_(std::nan(""));
  EXPECT_TRUE(linear_cross_entropy(hidden, head, targets).equal(before));
}

TEST(CrossEntropy, NeverHoldsMoreThanAChunkOfTheLogits) {
  use_caching_allocator();  // it counts
  const std::int64_t chunk_bytes = 4 * (std::int64_t{32} << 20);
  struct Shape {
    std::int64_t tokens, width, vocabulary;
  };
  for (const auto& [tokens, width, vocabulary] : {Shape{3000, 4, 50'000}, Shape{9000, 2048, 4000}})
    for (const bool trains : {false, true}) {
      SCOPED_TRACE(fmt::format("{} x {} x {}", tokens, width, vocabulary));
      const at::Tensor head = at::randn({vocabulary, width}), targets = at::randint(0, vocabulary, {tokens}, at::kLong);
      const at::Tensor hidden = at::randn({tokens, width}).set_requires_grad(trains);
      reset_peak_tensor_memory();
      const std::int64_t before = tensor_memory().in_use;
      const at::Tensor loss = linear_cross_entropy(hidden, head, targets);
      if (trains) loss.backward();
      const std::int64_t gradients = trains ? 3 * 4 * tokens * width : 0;  // of the hidden states, scaled, in the leaf
      EXPECT_LT(tensor_memory().peak - before, gradients + chunk_bytes * 5 / 4)
          << "all logits are " << 4 * tokens * vocabulary;
    }
}

// Several blocks of the vocabulary, of which each has larger logits than those before, or smaller ones.
TEST(CrossEntropy, OfRisingAndFallingLogitsIsThatOfTheWholeRow) {
  for (const bool rises : {true, false}) {
    at::manual_seed(3);
    const at::Tensor scale = rises ? at::linspace(0.1, 30, 6000) : at::linspace(30, 0.1, 6000);
    const at::Tensor head = at::randn({6000, 16}) * scale.unsqueeze(1),
                     targets = at::randint(0, 6000, {2100}, at::kLong);
    const at::Tensor hidden = at::randn({2100, 16}).set_requires_grad(true);
    const at::Tensor logits = hidden.detach().to(at::kDouble).mm(head.to(at::kDouble).t());
    const at::Tensor expected = -logits.log_softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1);
    const at::Tensor found = linear_cross_entropy_per_token(hidden, head, targets);
    EXPECT_LT(((found - expected).abs() / logits.abs().amax(1)).max().item<double>(), 2e-6);
    linear_cross_entropy(hidden, head, targets).backward();
    const at::Tensor gradient = logits.softmax(1).mm(head.to(at::kDouble)) - head.index_select(0, targets);
    EXPECT_TRUE(test::is_close(hidden.grad(), gradient, test::tolerance(at::kFloat).gradients));
  }
}

TEST(CrossEntropy, TellsWhatIsNotANumber) {
  at::Tensor hidden = at::randn({2100, 16}), head = at::randn({6000, 16});
  const at::Tensor targets = at::randint(0, 3000, {2100}, at::kLong);
  hidden[4][0] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor losses = linear_cross_entropy_per_token(hidden, head, targets);
  EXPECT_EQ(losses.isnan().sum().item<std::int64_t>(), 1);
  EXPECT_TRUE(std::isnan(losses[4].item<float>()));
  head.narrow(0, 5000, 100).fill_(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(linear_cross_entropy_per_token(hidden, head, targets).isnan().all().item<bool>());
}

TEST(CrossEntropy, OfNothingIsZero) {
  const at::Tensor hidden = at::randn({1, 3, 8}).requires_grad_(), head = at::randn({31, 8});
  const at::Tensor loss = linear_cross_entropy(hidden, head, at::full({1, 3}, kIgnoreIndex, at::kLong));
  loss.backward();
  EXPECT_EQ(loss.item<float>(), 0);
  EXPECT_EQ(hidden.grad().abs().max().item<float>(), 0);
}

TEST(CrossEntropy, SurvivesExtremeLogits) {
  const at::Tensor hidden = at::full({1, 1}, 1000.0).requires_grad_();
  const at::Tensor head = at::tensor({1.0F, -1.0F, 0.0F}).view({3, 1});
  const at::Tensor loss = linear_cross_entropy(hidden, head, at::tensor({1}, at::kLong));
  loss.backward();
  EXPECT_FLOAT_EQ(loss.item<float>(), 2000);
  EXPECT_FLOAT_EQ(hidden.grad().item<float>(), 2);
}

TEST(CrossEntropy, RefusesATargetOutsideTheVocabulary) {
  const at::Tensor hidden = at::randn({2, 8}), head = at::randn({31, 8});
  try {
    linear_cross_entropy(hidden, head, at::tensor({3, 31}, at::kLong));
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("target token 31 is outside the model's vocabulary of 31 tokens"));
  }
  EXPECT_THROW(linear_cross_entropy_per_token(hidden, head, at::tensor({-1, 3}, at::kLong)), DataError);
}

}  // namespace
}  // namespace adept::nn
