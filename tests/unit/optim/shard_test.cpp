#include "adept/optim/shard.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/optim/adamw.h"
#include "tests/support/whole_rates.h"

namespace adept::optim {
namespace {

TEST(RowShard, RanksHaveEveryRowOnce) {
  for (const std::int64_t rows : {0, 1, 7, 16, 100, 1000})
    for (const std::int64_t columns : {1, 3, 16, 48})
      for (const int size : {1, 2, 3, 8}) {
        const at::Tensor tensor = at::empty({rows, columns});
        std::int64_t next = 0;
        for (int rank = 0; rank < size; ++rank) {
          const Shard shard = row_shard(tensor.sizes(), {rank, size});
          EXPECT_EQ(shard.begin(), next);
          EXPECT_GE(shard.size(), 0);
          EXPECT_EQ(shard.size() % columns, 0);
          EXPECT_EQ(shard.of(tensor).numel(), shard.size());
          next = shard.end();
        }
        EXPECT_EQ(next, rows * columns);
      }
}

TEST(RowShard, BoundsAreMultiplesOfAVector) {
  for (const std::int64_t columns : {1, 3, 16, 48})
    for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(row_shard({100, columns}, {rank, 3}).end() % 16, 0) << columns;
}

TEST(RowShard, RanksHaveAboutEquallyMany) {
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(row_shard({1000, 64}, {rank, 8}).size(), 125 * 64);
}

/// A matrix (32, 48) that three ranks divide at these elements, and what each updates of it.
Parameter part_of(const at::Tensor& matrix, const std::vector<std::int64_t>& bounds, int rank) {
  Shard shard{.shape = matrix.sizes().vec(), .bounds = bounds, .rank = rank};
  return {"m", shard.of(matrix), shard};
}

TEST(AdamWOfRanks, PartsAreUpdatedLikeTheWhole) {
  const at::Tensor start = at::randn({32, 48}), gradient = at::randn({32, 48});
  const std::vector<RateSlice> rows = {{0, 0, 5, 1e-2}, {0, 5, 6, 0}, {0, 6, 32, 3e-3}};
  const std::vector<RateSlice> columns = {{1, 0, 7, 1e-2}, {1, 7, 48, 2e-3}};
  const std::vector<RateSlice> all = {{0, 0, 32, 1e-2}};
  for (const auto& slices : {rows, columns, all}) {
    // Elements may be divided within rows, unless columns have rates.
    const std::int64_t middle = slices.front().dim == 1 ? 10 * 48 : 10 * 48 + 16;
    const std::vector<std::int64_t> bounds = {0, middle, middle, 32 * 48};
    const at::Tensor whole = start.clone(), divided = start.clone();
    AdamW one({{"m", whole}}, {.weight_decay = 0.1});
    std::vector<AdamW> ranks;
    for (int rank = 0; rank < 3; ++rank) ranks.emplace_back(std::vector{part_of(divided, bounds, rank)}, one.options());
    for (int step = 0; step < 2; ++step) {
      one.step({gradient.clone()}, {{"m", slices}}, 0.5);
      for (AdamW& rank : ranks) rank.step({rank.parameters()[0].part_of(gradient).clone()}, {{"m", slices}}, 0.5);
    }
    EXPECT_TRUE(at::equal(whole, divided)) << slices.front().dim << " " << slices.size();
  }
}

TEST(AdamWOfRanks, RatesOfColumnsNeedWholeRows) {
  const at::Tensor matrix = at::randn({32, 48});
  AdamW rank({part_of(matrix, {0, 16, 32 * 48}, 1)}, {});
  EXPECT_THROW(rank.step({at::randn({32 * 48 - 16})}, {{"m", {{1, 0, 7, 1e-2}, {1, 7, 48, 2e-3}}}}), InternalError);
}

TEST(AdamWOfRanks, TakesItsPartOfAWholeState) {
  const at::Tensor matrix = at::randn({32, 48}), first = at::randn({32, 48}), second = at::randn({32, 48});
  AdamW rank({part_of(matrix.clone(), {0, 160, 32 * 48}, 0)}, {});
  rank.restore(rank.parameters()[0], first, {second, matrix});
  EXPECT_TRUE(at::equal(rank.parameters()[0].master, first.view({-1}).slice(0, 0, 160)));
  EXPECT_TRUE(at::equal(rank.moments().at("m").exp_avg, second.view({-1}).slice(0, 0, 160)));
  EXPECT_TRUE(at::equal(rank.moments().at("m").exp_avg_sq, matrix.view({-1}).slice(0, 0, 160)));
}

}  // namespace
}  // namespace adept::optim
