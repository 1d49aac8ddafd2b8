#include "adept/optim/row_shard.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

namespace adept::optim {
namespace {

TEST(RowShard, RanksHaveEveryRowOnce) {
  for (const std::int64_t rows : {0, 1, 7, 16, 100, 1000})
    for (const std::int64_t columns : {1, 3, 16, 48})
      for (const int size : {1, 2, 3, 8}) {
        const at::Tensor tensor = at::empty({rows, columns});
        std::int64_t next = 0;
        for (int rank = 0; rank < size; ++rank) {
          const RowShard shard = row_shard(tensor, rank, size);
          EXPECT_EQ(shard.begin, next);
          EXPECT_GE(shard.size(), 0);
          EXPECT_EQ(shard.of(tensor).size(0), shard.size());
          next = shard.end;
        }
        EXPECT_EQ(next, rows);
      }
}

TEST(RowShard, BoundsAreMultiplesOfAVector) {
  for (const std::int64_t columns : {1, 3, 16, 48}) {
    const at::Tensor tensor = at::empty({100, columns});
    for (int rank = 0; rank < 2; ++rank) EXPECT_EQ(row_shard(tensor, rank, 3).end * columns % 16, 0) << columns;
  }
}

TEST(RowShard, RanksHaveAboutEquallyMany) {
  const at::Tensor matrix = at::empty({1000, 64});
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(row_shard(matrix, rank, 8).size(), 125);
}

}  // namespace
}  // namespace adept::optim
