#include "adept/nn/before_backward.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

namespace adept::nn {
namespace {

at::Tensor value(double number, bool requires_grad) {
  return at::full({2}, number, at::kFloat).set_requires_grad(requires_grad);
}

TEST(BeforeBackward, CallsOnceAfterAllThatComesFromTheTensors) {
  const at::Tensor x = value(2, true), y = value(3, true);
  std::vector<std::string> order;
  const auto inner = before_backward({x * x, y * 1}, [&] { order.emplace_back("inner"); });
  const auto outer = before_backward({inner[0] * inner[1]}, [&] { order.emplace_back("outer"); });
  EXPECT_TRUE(order.empty());
  torch::autograd::backward({(outer[0] + inner[1]).sum()}, {});
  EXPECT_EQ(order, (std::vector<std::string>{"outer", "inner"}));
  EXPECT_EQ(x.grad()[0].item<double>(), 2 * 2 * 3);
  EXPECT_EQ(y.grad()[0].item<double>(), 2 * 2 + 1);
}

TEST(BeforeBackward, PassesOnATensorThatNothingComesFrom) {
  const at::Tensor x = value(2, true), y = value(3, true);
  int calls = 0;
  const auto both = before_backward({x * 1, y * 1}, [&] { ++calls; });
  torch::autograd::backward({both[1].sum()}, {});
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(x.grad().defined() && x.grad().abs().sum().item<double>() > 0);
  EXPECT_EQ(y.grad()[0].item<double>(), 1);
}

TEST(BeforeBackward, IsNothingWithoutAGraph) {
  const at::Tensor frozen = value(1, false), leaf = value(1, true);
  EXPECT_TRUE(before_backward({frozen}, [] {})[0].is_same(frozen));
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(before_backward({leaf}, [] {})[0].is_same(leaf));
}

}  // namespace
}  // namespace adept::nn
