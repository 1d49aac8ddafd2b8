#include "adept/optim/whole_tensors.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "adept/core/error.h"
#include "adept/optim/adamw.h"

namespace adept::optim {
namespace {

using Parts = std::vector<NamedPart>;

TEST(WholeTensors, OfOneProcessAreReadInPlace) {
  const at::Tensor small = at::randn({3, 4}), large = at::zeros({kGatheredBytes / 4 + 5});
  WholeTensors tensors(Parts{{"small", small}, {"large", large}});
  EXPECT_TRUE(tensors.contains("small"));
  EXPECT_FALSE(tensors.contains("other"));
  tensors.on_first([&] {
    EXPECT_EQ(tensors.whole("small").const_data_ptr(), small.const_data_ptr());
    EXPECT_EQ(tensors.whole("small").sizes(), small.sizes());
    const float* next = large.const_data_ptr<float>();
    tensors.read("large", [&](const at::Tensor& piece) {
      EXPECT_EQ(piece.const_data_ptr<float>(), next);
      EXPECT_LE(piece.numel(), kGatheredBytes / 4);
      next += piece.numel();
    });
    EXPECT_EQ(next - large.const_data_ptr<float>(), large.numel());
  });
}

TEST(WholeTensors, OfRanksAreReadOnlyTogether) {
  const at::Tensor matrix = at::randn({32, 48});
  const Shard shard = row_shard(matrix.sizes(), {0, 2});
  WholeTensors tensors(Parts{{"m", shard.of(matrix), &shard}});
  EXPECT_THROW(tensors.whole("m"), InternalError);
  tensors.on_first([] {});
  EXPECT_THROW(tensors.whole("m"), InternalError);
}

TEST(WholeTensors, AreFp32AndNamedOnce) {
  EXPECT_THROW(WholeTensors(Parts{{"a", at::zeros({2}, at::kBFloat16)}}), InternalError);
  EXPECT_THROW(WholeTensors(Parts{{"a", at::zeros({2})}, {"a", at::zeros({2})}}), InternalError);
}

TEST(AdamWState, HasMastersThenMomentsInTheOrderOfNames) {
  const AdamW optimizer({{"b", at::zeros({2})}, {"a", at::zeros({3})}}, {});
  std::vector<std::string> names;
  for (const NamedPart& part : optimizer.state()) names.push_back(part.name);
  const std::vector<std::string> expected = {"a", "b", "exp_avg.a", "exp_avg.b", "exp_avg_sq.a", "exp_avg_sq.b"};
  EXPECT_EQ(names, expected);
  EXPECT_EQ(optimizer.state()[4].values.const_data_ptr(), optimizer.moments().at("a").exp_avg_sq.const_data_ptr());
}

}  // namespace
}  // namespace adept::optim
