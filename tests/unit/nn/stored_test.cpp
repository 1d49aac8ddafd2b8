#include "adept/nn/stored.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

namespace adept::nn {
namespace {

TEST(Stored, EffectsAreScaled) {
  const at::Tensor stored = at::tensor({-1.0F, 0.0F, 0.5F});
  EXPECT_TRUE(scaled_effect(stored, 0.5, 0).equal(at::tensor({-0.5F, 0.0F, 0.25F})));
  EXPECT_TRUE(scaled_effect(stored, 0.5, 1).equal(at::tensor({-1.0F, -0.5F, -0.25F}))) << "gains 0, 1, 1.5 halved";
  EXPECT_TRUE(scaled_effect(stored, 0, 1).equal(at::tensor({-1.0F, -1.0F, -1.0F})));
}

TEST(Stored, ScalingRoundsOnceToTheTypeThatIsWanted) {
  const at::Tensor narrow = at::tensor({1.0F, 1.0078125F}).to(at::kBFloat16);
  EXPECT_EQ(scaled_effect(narrow, 0.3, 0).scalar_type(), at::kBFloat16);
  const at::Tensor wide = scaled_effect(narrow, 0.3, 1, at::kFloat);
  EXPECT_EQ(wide.scalar_type(), at::kFloat);
  EXPECT_TRUE(wide.equal((narrow.to(at::kFloat) + 1) * 0.3 - 1));
  EXPECT_TRUE(scaled_effect(narrow, 0.3, 1).equal(wide.to(at::kBFloat16)));
  const at::Tensor fine = at::tensor({1 + 1e-12}, at::kDouble);
  EXPECT_TRUE(scaled_effect(fine, 0.5, 0).equal(fine * 0.5)) << "fp64 stays fp64";
}

TEST(Stored, NothingHasNoEffect) {
  for (const double offset : {0.0, 1.0}) {
    const at::Tensor stored = at::ones({3}).to(at::kBFloat16), without = without_effect(stored, offset, at::kFloat);
    EXPECT_EQ(without.scalar_type(), at::kFloat);
    EXPECT_FALSE(has_effect(without, offset));
    EXPECT_TRUE(has_effect(stored, offset));
    EXPECT_TRUE(effect_of(without, offset).eq(0).all().item<bool>());
    EXPECT_TRUE(effect_of(stored, offset).equal(at::ones({3}) + offset));
  }
}

TEST(Stored, ALeafOfAMasterIsTheMasterWhereThatIsRead) {
  const at::Tensor matrix = at::ones({2, 3}), gain = at::ones({3});
  EXPECT_TRUE(leaf_of_master(matrix, at::kBFloat16).is_alias_of(matrix));
  EXPECT_TRUE(leaf_of_master(gain, at::kFloat).is_alias_of(gain));
  const at::Tensor copy = leaf_of_master(gain, at::kBFloat16);
  EXPECT_EQ(copy.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(copy.is_leaf() && copy.requires_grad());
  EXPECT_FALSE(gain.requires_grad());
}

TEST(Stored, GradientsOfATrainedLeafAreAddedInFp32) {
  const at::Tensor leaf = trained_leaf_of(at::ones({1}), at::kBFloat16);
  for (const double gradient : {1.0, 1.0 / 512}) leaf.mul(gradient).sum().backward();
  EXPECT_EQ(leaf.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(leaf.grad().item<double>(), 1.0 + 1.0 / 512) << "which bf16 would round";
}

}  // namespace
}  // namespace adept::nn
