// What holds for rotary embeddings beyond agreement with the reference.
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <utility>
#include <vector>

#include "adept/nn/kernels.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/rope.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

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

}  // namespace
}  // namespace adept::nn
