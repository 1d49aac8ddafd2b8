// The matrix of tokens: rows of ids, and the head of hidden states.
#include "adept/nn/embedding.h"

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "adept/nn/reference.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

TEST(Embedding, RoundsItsScaleFirstOrTheProductAlone) {
  const Embedding table{at::full({5, 4}, 3.0).to(at::kBFloat16)};
  const at::Tensor ids = at::arange(5, at::kLong).view({1, 5});
  const auto first_of = [&](at::ScalarType type, const EmbeddingScale& scale) {
    return table.rows(ids, type, scale)[0][0][0].item<float>();
  };
  EXPECT_EQ(first_of(at::kBFloat16, {.factor = 1.2}), 3.59375f) << "3.6 as bf16";
  EXPECT_EQ(first_of(at::kBFloat16, {.factor = 1.2, .is_rounded = true}), 3.609375f) << "3 times 1.203125";
  EXPECT_FLOAT_EQ(first_of(at::kFloat, {.factor = 1.2}), 3.6f);
  EXPECT_TRUE(table.rows(ids, at::kBFloat16, {}).view({5, 4}).equal(table.weight));
}

TEST(Embedding, AsAHeadCapsWhatIsReadAndWhatIsLearnt) {
  at::manual_seed(3);
  const Embedding head{at::randn({31, 12})};
  const at::Tensor hidden = 3 * at::randn({2, 7, 12}), targets = at::randint(0, 31, {2, 7}, at::kLong);
  for (const double soft_cap : {0.0, 2.0}) {
    const at::Tensor logits = head.logits(hidden, soft_cap);
    const at::Tensor expected = reference::soft_capped(reference::linear(hidden, head.weight), soft_cap);
    EXPECT_TRUE(test::is_close(logits, expected, 1e-5));
    EXPECT_EQ(logits.abs().max().item<double>() <= 2, soft_cap > 0);
    const at::Tensor losses = expected.logsumexp(-1) - expected.gather(-1, targets.unsqueeze(-1)).squeeze(-1);
    EXPECT_TRUE(test::is_close(head.token_losses(hidden, targets, soft_cap), losses, 1e-5));
    EXPECT_TRUE(test::is_close(head.loss_sum(hidden, targets, soft_cap), losses.sum(), 1e-5));
  }
}

}  // namespace
}  // namespace adept::nn
