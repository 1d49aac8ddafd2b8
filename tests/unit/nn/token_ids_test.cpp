// What the host knows of tokens, found where a batch is made.
#include "adept/nn/token_ids.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"

namespace adept::nn {
namespace {

TEST(TokenIds, KnowTheLeastAndTheMost) {
  const TokenIds ids = at::tensor({4, 9, 2, 7}, at::kLong).view({2, 2}).t();
  EXPECT_EQ(ids.least, 2);
  EXPECT_EQ(ids.most, 9);
  EXPECT_TRUE(ids.values.is_same(ids.host)) << "on the CPU";
  const TokenIds none = at::empty({2, 0}, at::kLong);
  EXPECT_EQ(none.least, 0);
  EXPECT_EQ(none.most, -1);
  EXPECT_THROW(TokenIds(at::tensor({1}, at::kInt)), InternalError);
}

TEST(Targets, KnowTheirPositions) {
  const Targets some = at::tensor({kIgnoreIndex, std::int64_t{5}, kIgnoreIndex, std::int64_t{3}}).view({2, 2});
  EXPECT_TRUE(some.positions.equal(at::tensor({1, 3}, at::kLong)));
  EXPECT_TRUE(some.scored.values.equal(at::tensor({5, 3}, at::kLong)));
  EXPECT_EQ(some.scored.least, 3);
  EXPECT_EQ(some.count(), 2);
  const Targets all = at::tensor({5, 3}, at::kLong);
  EXPECT_FALSE(all.positions.defined());
  EXPECT_EQ(all.count(), 2);
  const Targets none = at::tensor({kIgnoreIndex});
  EXPECT_EQ(none.count(), 0);
  EXPECT_EQ(none.scored.most, -1);
}

}  // namespace
}  // namespace adept::nn
