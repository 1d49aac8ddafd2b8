// What holds for the other operations beyond agreement with the reference.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
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
#include "adept/nn/gate.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "adept/nn/square_sum.h"
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

TEST(ThreadWorkspace, IsGivenBackByAllThreads) {
  kernels::functions();  // throws here, not in the thread, where the processor has not what is asked for
  std::thread([] {       // has threads of its own
    const std::int64_t before = thread_workspace_bytes();
    at::set_num_threads(2);
    const at::Tensor x = at::randn({2, 2, 40, 32});
    causal_attention(x, x, x);
    const std::int64_t during = thread_workspace_bytes();
    release_thread_workspaces();
    EXPECT_LT(thread_workspace_bytes(), during);
    EXPECT_LE(thread_workspace_bytes(), before) << "less where threads of other tests have ended meanwhile";
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
      [&] { linear(x, weight.to(at::kDouble)); },  // it would be rounded
      testing::ThrowsMessage<InternalError>(testing::HasSubstr("a frozen weight of Double with inputs of Float")));
  EXPECT_THROW(linear(x.to(at::kBFloat16), weight.to(at::kHalf)), InternalError);
}

TEST(Linear, RoundsMastersForBf16) {
  for (const std::int64_t tokens : {3, 40}) {  // fewer and more than are worth a kernel
    const at::Tensor masters[] = {at::randn({24, 40}).requires_grad_(), at::randn({16, 40}).requires_grad_()};
    std::vector<at::Tensor> rounded;
    for (const at::Tensor& master : masters) rounded.push_back(master.detach().to(at::kBFloat16).requires_grad_());
    const auto bf16 = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
    const at::Tensor x = bf16(at::randn({2, tokens, 40}));
    const at::Tensor found_x = x.clone().requires_grad_(), expected_x = x.clone().requires_grad_();
    const auto found = linears({found_x}, {masters[0], masters[1]}, {at::Tensor(), at::Tensor()});
    const auto expected = linears({expected_x}, rounded, {at::Tensor(), at::Tensor()});
    const std::vector<at::Tensor> directions = {bf16(at::randn({2, tokens, 24})), bf16(at::randn({2, tokens, 16}))};
    torch::autograd::backward(found, directions);
    torch::autograd::backward(expected, directions);
    EXPECT_TRUE(found_x.grad().equal(expected_x.grad()));
    for (std::size_t i = 0; i < rounded.size(); ++i) {
      EXPECT_TRUE(found[i].equal(expected[i]));
      EXPECT_EQ(masters[i].grad().scalar_type(), at::kFloat);
      EXPECT_TRUE(masters[i].grad().equal(rounded[i].grad().to(at::kFloat)));
      const at::NoGradGuard no_grad;
      EXPECT_TRUE(linear(x, masters[i].detach()).equal(expected[i])) << "without a graph";
      EXPECT_TRUE(test::is_close(reference::linear(x, masters[i], {}), expected[i], 2e-2));
    }
  }
}

TEST(Linear, HasAnAdapterOrNoneForEachProjection) {
  const at::Tensor x = at::randn({2, 4});
  EXPECT_THAT([&] { with_adapters({x, x}, {x}, {LoraAdapter{}}); },
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
      Input input = {gated(g, u, Activation::kSilu)};
      if (remade)
        input = {
            input.value, {g, u}, [](const auto& sources) { return gated(sources[0], sources[1], Activation::kSilu); }};
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

TEST(Rope, TurnsTheFirstDimensionsAsAHeadOfThatSizeAndLeavesTheOthers) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({1, 2, 9, 32});
  const at::Tensor y = apply_rope(x, rope_tables({.partial_rotary_factor = 0.75}, 32, 9));
  EXPECT_TRUE(y.narrow(3, 0, 24).equal(apply_rope(x.narrow(3, 0, 24), rope_tables({}, 24, 9))));
  EXPECT_TRUE(y.narrow(3, 24, 8).equal(x.narrow(3, 24, 8)));
}

RopeParameters longrope_of_100_tokens() {
  return {.type = RopeType::kLongRope,
          .original_max_position_embeddings = 100,
          .attention_factor = 1.25,
          .short_factor = {1, 1.5, 2, 3},
          .long_factor = {1, 4, 16, 64}};
}

TEST(Rope, LongRopeDividesTheFrequenciesByTheFactorsForTheLengthOfTheText) {
  const RopeParameters p = longrope_of_100_tokens();
  const at::Tensor plain = rope_frequencies({}, 8);
  const at::Tensor of_short = at::tensor({1.0F, 1.5F, 2.0F, 3.0F}), of_long = at::tensor({1.0F, 4.0F, 16.0F, 64.0F});
  EXPECT_TRUE(test::is_close(rope_frequencies(p, 8, 100), plain / of_short, 1e-6));
  EXPECT_TRUE(test::is_close(rope_frequencies(p, 8, 101), plain / of_long, 1e-6));
  const RopeTables tables = rope_tables(p, 8, 101);
  EXPECT_TRUE(test::is_close(tables.cos[50], 1.25 * (50 * plain / of_long).cos(), 1e-5));
  EXPECT_TRUE(test::is_close(tables.sin[50], 1.25 * (50 * plain / of_long).sin(), 1e-5));
  EXPECT_THROW(rope_frequencies(p, 10, 5), InternalError) << "5 frequencies, 4 factors";
}

TEST(Rope, TheCacheGivesTheTablesOfEachText) {
  for (const RopeParameters& p : {RopeParameters{}, longrope_of_100_tokens()}) {
    RopeCache cache(p, 8);
    for (const std::int64_t end : {3, 60, 99, 100, 101, 40, 300, 100, 250, 1000})
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const RopeTables found = cache.get(1, end, end, type, at::kCPU), expected = rope_tables(p, 8, end, type);
        EXPECT_TRUE(found.cos.equal(expected.cos.narrow(0, 1, end - 1))) << end;
        EXPECT_TRUE(found.sin.equal(expected.sin.narrow(0, 1, end - 1))) << end;
      }
  }
}

// A long prompt that is read in pieces.
TEST(Rope, TheCacheLooksAtTheLengthOfTheTextWhereverThePositionsAre) {
  const RopeParameters p = longrope_of_100_tokens();
  RopeCache cache(p, 8);
  EXPECT_TRUE(cache.get(0, 60, 150, at::kFloat, at::kCPU).cos.equal(rope_tables(p, 8, 150).cos.narrow(0, 0, 60)));
}

TEST(Rope, TheCacheComputesNoTableTwice) {
  RopeCache cache({}, 8);
  const RopeTables first = cache.get(0, 50, 50, at::kFloat, at::kCPU);
  EXPECT_EQ(cache.get(0, 30, 30, at::kFloat, at::kCPU).cos.data_ptr(), first.cos.data_ptr());
  const RopeTables longer = cache.get(0, 51, 51, at::kFloat, at::kCPU);
  EXPECT_NE(longer.cos.data_ptr(), first.cos.data_ptr());
  EXPECT_EQ(cache.get(0, 100, 100, at::kFloat, at::kCPU).cos.data_ptr(), longer.cos.data_ptr());
}

// Of rows of 150 tokens; longrope's frequencies change beyond 100.
TEST(Rope, TheCacheTakesTheFrequenciesOfEachDocument) {
  const RopeParameters p = longrope_of_100_tokens();
  RopeCache cache(p, 8);
  const auto starts = [](const std::vector<std::vector<std::int64_t>>& lengths) {
    std::vector<std::int32_t> values;
    for (const auto& row : lengths)
      for (std::int32_t begin = 0; const std::int64_t length : row) {
        values.insert(values.end(), static_cast<std::size_t>(length), begin);
        begin += static_cast<std::int32_t>(length);
      }
    return at::tensor(values, at::kInt).view({std::ssize(lengths), -1});
  };
  const RopeTables of_long = cache.get(0, 150, 150, at::kFloat, at::kCPU);
  const RopeTables all_long = cache.get_rows(150, starts({{150}, {150}}), {}, at::kFloat, at::kCPU);
  EXPECT_TRUE(all_long.cos.equal(of_long.cos));
  const RopeTables all_short = cache.get_rows(150, starts({{100, 50}, {1, 99, 50}}), {}, at::kFloat, at::kCPU);
  EXPECT_EQ(all_short.cos.dim(), 2);
  EXPECT_TRUE(all_short.sin.narrow(0, 0, 100).equal(rope_tables(p, 8, 100).sin));
  const RopeTables mixed = cache.get_rows(150, starts({{40, 101, 9}, {75, 75}}), {}, at::kFloat, at::kCPU);
  ASSERT_EQ(mixed.cos.sizes(), (std::vector<std::int64_t>{2, 150, 4}));
  EXPECT_TRUE(mixed.cos[1].equal(all_short.cos));
  EXPECT_TRUE(mixed.sin[0].narrow(0, 40, 101).equal(of_long.sin.narrow(0, 40, 101)));
  for (const auto& [begin, length] : {std::pair{0, 40}, {141, 9}})
    EXPECT_TRUE(mixed.sin[0].narrow(0, begin, length).equal(all_short.sin.narrow(0, begin, length)));
  EXPECT_EQ(RopeCache({}, 8).get_rows(150, starts({{75, 75}}), {}, at::kFloat, at::kCPU).cos.dim(), 2);
}

// Of rows that are padded to 150 tokens.
TEST(Rope, TheCacheTakesTheFrequenciesOfEachRowWithoutItsPadding) {
  const RopeParameters p = longrope_of_100_tokens();
  RopeCache cache(p, 8);
  const auto of_lengths = [&](const std::vector<std::int64_t>& lengths) {
    return cache.get_rows(150, {}, at::tensor(lengths, at::kLong), at::kFloat, at::kCPU);
  };
  const RopeTables of_long = cache.get_rows(150, {}, {}, at::kFloat, at::kCPU);
  EXPECT_TRUE(of_long.cos.equal(rope_tables(p, 8, 150).cos)) << "no row is padded";
  EXPECT_TRUE(of_lengths({150, 101}).cos.equal(of_long.cos));
  const RopeTables of_short = of_lengths({100, 1});
  EXPECT_TRUE(of_short.sin.narrow(0, 0, 100).equal(rope_tables(p, 8, 100).sin));
  const RopeTables mixed = of_lengths({150, 100, 101});
  ASSERT_EQ(mixed.cos.sizes(), (std::vector<std::int64_t>{3, 150, 4}));
  EXPECT_TRUE(mixed.cos[1].equal(of_short.cos));
  for (const std::int64_t row : {0, 2}) EXPECT_TRUE(mixed.sin[row].equal(of_long.sin)) << row;
}

TEST(Rope, KeptTablesAreMadeOnceForABatch) {
  RopeCache cache(longrope_of_100_tokens(), 8);
  RowTables kept;
  const at::Tensor lengths = at::tensor({150, 100}, at::kLong), others = at::tensor({100, 150}, at::kLong);
  const auto tables = [&](const at::Tensor& of, at::ScalarType type, RowTables* in) {
    return cache.get_rows(150, {}, of, type, at::kCPU, in);
  };
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const at::Tensor& of : {lengths, others}) {
      const RopeTables first = tables(of, type, &kept), alone = tables(of, type, nullptr);
      EXPECT_TRUE(first.cos.equal(alone.cos) && first.sin.equal(alone.sin));
      EXPECT_TRUE(tables(of, type, &kept).cos.is_same(first.cos));
    }
  RopeParameters faster = longrope_of_100_tokens();
  faster.theta /= 2;
  RopeCache other(faster, 8);
  EXPECT_TRUE(other.get_rows(150, {}, lengths, at::kFloat, at::kCPU, &kept)
                  .cos.equal(other.get_rows(150, {}, lengths, at::kFloat, at::kCPU).cos));
}

TEST(Rope, TakesATableOfEachSequence) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const Kernels kernels : {Kernels::kFused, Kernels::kReference}) {
      set_kernels(kernels);
      const RopeTables of_rows[] = {rope_tables({}, 16, 9, type), rope_tables({.theta = 50}, 16, 9, type)};
      const RopeTables both = {at::stack({of_rows[0].cos, of_rows[1].cos}),
                               at::stack({of_rows[0].sin, of_rows[1].sin})};
      const at::Tensor x = at::randn({2, 9, 4, 16}).to(type).requires_grad_();
      const at::Tensor weight = at::randn({16}).to(type).requires_grad_(),
                       direction = at::randn({2, 4, 9, 16}).to(type);
      const auto one = [&](bool normed, std::int64_t row, std::int64_t count, const RopeTables& tables) {
        const at::Tensor rows = x.narrow(0, row, count);
        const at::Tensor y =
            normed ? normed_rope(rows, weight, 1e-5, tables) : apply_rope(rows.transpose(1, 2), tables);
        return std::pair(y,
                         torch::autograd::grad({y}, {x}, {direction.narrow(0, row, count)})[0].narrow(0, row, count));
      };
      for (const bool normed : {false, true}) {
        const auto [y, gradient] = one(normed, 0, 2, both);
        for (const std::int64_t row : {0, 1}) {
          const auto [expected, expected_gradient] = one(normed, row, 1, of_rows[row]);
          EXPECT_TRUE(y.narrow(0, row, 1).equal(expected)) << normed << ", " << at::toString(type);
          EXPECT_TRUE(gradient.narrow(0, row, 1).equal(expected_gradient)) << normed << ", " << at::toString(type);
        }
      }
      set_kernels(Kernels::kFused);
    }
}

TEST(RmsNorm, NormalisesInFp32AndRoundsBeforeTheWeight) {
  const at::Tensor x = at::full({1, 4}, 3e30, at::kBFloat16);  // its square overflows nothing if the norm is scaled
  const at::Tensor small = at::full({1, 4}, 1.2345678, at::kBFloat16);
  const at::Tensor weight = at::full({4}, 1.0078125, at::kBFloat16);
  const at::Tensor expected = reference::rms_norm(small, weight, 1e-6);
  EXPECT_TRUE(rms_norm(small, weight, 1e-6).equal(expected));
  EXPECT_EQ(rms_norm(x, weight, 1e-6).scalar_type(), at::kBFloat16);
}

TEST(RmsNorm, RoundsOnceWhereTheConventionSaysSo) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({7, 72}).to(at::kBFloat16), weight = at::randn({72}).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat), w = weight.to(at::kFloat);
  const at::Tensor n = wide * (wide.square().mean(-1, /*keepdim=*/true) + 1e-6).rsqrt();
  const auto differing = [](const at::Tensor& a, const at::Tensor& b) { return a.ne(b).sum().item<int>(); };
  const std::pair<GainConvention, at::Tensor> once[] = {{GainConvention::kWide, n * w},
                                                        {GainConvention::kOnePlus, n * (1 + w)}};
  for (const auto& [gain, expected] : once) {
    // The last bit of an fp32 number seldom decides how it is rounded to bf16, a second rounding often.
    EXPECT_LE(differing(rms_norm(x, weight, 1e-6, gain), expected.to(at::kBFloat16)), 1);
    const at::Tensor twice = gain == GainConvention::kWide ? weight : (1 + weight);
    EXPECT_GT(differing(n.to(at::kBFloat16) * twice, expected.to(at::kBFloat16)), 50);
  }
}

TEST(RmsNorm, AGainThatStandsForZeroLeavesNothing) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor x = at::randn({5, 72}).to(type);
    EXPECT_EQ(rms_norm(x, at::full({72}, -1, type), 1e-6, GainConvention::kOnePlus).count_nonzero().item<int>(), 0);
    EXPECT_EQ(rms_norm(x, at::zeros({72}, type), 1e-6, GainConvention::kWide).count_nonzero().item<int>(), 0);
  }
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

TEST(Gate, OfLargeNumbersIsFinite) {
  const at::Tensor x = at::tensor({-1e4F, -200.0F, -90.0F, 90.0F, 200.0F, 1e4F}), one = at::ones({6});
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const at::Tensor gate = x.clone().requires_grad_();
    const at::Tensor y = gated(gate, one, activation);
    y.sum().backward();
    const at::Tensor open = (x > 0).to(at::kFloat);
    EXPECT_TRUE(test::is_close(y, x * open, 1e-6));
    EXPECT_TRUE(test::is_close(gate.grad(), open, 1e-6));
  }
}

TEST(Operations, BuildNoGraphOverFrozenInputs) {
  const at::Tensor x = at::randn({1, 2, 3, 4}), w = at::randn({4});
  EXPECT_FALSE(rms_norm(x, w, 1e-6).requires_grad());
  EXPECT_FALSE(gated(x, x, Activation::kSilu).requires_grad());
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
  const at::Tensor loss = gated(x, x, Activation::kSilu).sum();
  EXPECT_THROW(torch::autograd::grad({loss}, {x}, {}, std::nullopt, /*create_graph=*/true), InternalError);
}

}  // namespace
}  // namespace adept::nn
