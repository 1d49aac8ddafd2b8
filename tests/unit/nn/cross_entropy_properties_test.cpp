// What holds for the loss beyond agreement with the reference.
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/linear.h"
#include "adept/nn/reference.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

TEST(CrossEntropy, OfALargeVocabularyLosesNoSmallTerms) {
  at::manual_seed(3);
  const at::Tensor hidden = at::randn({4, 16}), head = at::randn({49152, 16}), targets = at::arange(4);
  const at::Tensor exact =
      reference::linear_cross_entropy_per_token(hidden.to(at::kDouble), head.to(at::kDouble), targets);
  for (const at::Tensor& loss : {reference::linear_cross_entropy_per_token(hidden, head, targets),
                                 linear_cross_entropy_per_token(hidden, head, targets)})
    EXPECT_LT((loss - exact).abs().max().item<float>(), 4e-6) << loss << exact;
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

TEST(CrossEntropy, GivesTheLossesOfTokensBesideTheSumAndChangesNoBitOfIt) {
  at::manual_seed(3);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const bool head_trains : {false, true})
      for (const bool hidden_trains : {false, true})
        for (const std::int64_t ignored : {0, 3}) {
          const at::Tensor hidden = at::randn({2, 9, 8}).to(dtype), head = at::randn({31, 8}).to(dtype);
          at::Tensor targets = at::randint(0, 31, {2, 9}, at::kLong);
          targets.narrow(1, 4, ignored).fill_(kIgnoreIndex);
          const auto run = [&](at::Tensor* token_losses) {
            const at::Tensor h = hidden.clone().requires_grad_(hidden_trains),
                             w = head.clone().requires_grad_(head_trains);
            const at::Tensor sum = linear_cross_entropy(h, w, targets, 0, token_losses);
            if (sum.requires_grad()) sum.backward();
            return std::vector<at::Tensor>{sum.detach(), h.grad(), w.grad()};
          };
          at::Tensor found;
          const std::vector<at::Tensor> with = run(&found), without = run(nullptr);
          for (std::size_t i = 0; i < with.size(); ++i) {
            ASSERT_EQ(with[i].defined(), without[i].defined());
            if (!with[i].defined()) continue;
            EXPECT_TRUE(with[i].equal(without[i])) << i;
          }
          EXPECT_FALSE(found.requires_grad());
          EXPECT_EQ(found.scalar_type(), at::kFloat);
          EXPECT_EQ(found.sizes(), targets.sizes());
          EXPECT_TRUE(test::is_close(found, linear_cross_entropy_per_token(hidden, head, targets), 1e-5));
        }
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
  EXPECT_THROW(linear_cross_entropy(hidden, head.to(at::kDouble), targets), InternalError) << "it would be rounded";
  EXPECT_THROW(linear_cross_entropy_per_token(hidden, head.to(at::kDouble), targets), InternalError);
}

TEST(CrossEntropy, RoundsAMasterForBf16AndNotItsGradient) {
  at::manual_seed(3);
  const at::Tensor master = at::randn({6000, 16}).requires_grad_();
  const at::Tensor rounded = master.detach().to(at::kBFloat16).requires_grad_();
  // Several chunks: of one alone some products give a sum in bf16.
  const at::Tensor hidden = at::randn({2100, 16}).to(at::kBFloat16), targets = at::randint(0, 6000, {2100}, at::kLong);
  const at::Tensor found_hidden = hidden.clone().requires_grad_(), expected_hidden = hidden.clone().requires_grad_();
  const at::Tensor found = linear_cross_entropy(found_hidden, master, targets),
                   expected = linear_cross_entropy(expected_hidden, rounded, targets);
  EXPECT_TRUE(found.equal(expected));
  found.backward();
  expected.backward();
  EXPECT_TRUE(found_hidden.grad().equal(expected_hidden.grad()));
  EXPECT_TRUE(master.grad().to(at::kBFloat16).equal(rounded.grad()));
  EXPECT_FALSE(master.grad().equal(rounded.grad().to(at::kFloat))) << "it fits into bf16, so nothing was shown";
  EXPECT_TRUE(linear_cross_entropy_per_token(hidden, master, targets)
                  .equal(linear_cross_entropy_per_token(hidden, rounded, targets)));
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
  for (const auto& [tokens, width, vocabulary] : {Shape{3000, 4, 50'000}, Shape{9000, 512, 4000}})
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
