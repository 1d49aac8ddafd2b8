#include "adept/nn/recompute.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "adept/nn/linear.h"

namespace adept::nn {
namespace {

at::Tensor random_leaf(at::IntArrayRef shape) { return at::randn(shape).set_requires_grad(true); }

struct Outcome {
  at::Tensor loss, x, weight;  // the value, and the gradients
  at::Tensor next_draw;        // what the generator gives afterwards
};

// Two parts, one after the other, the second of which draws from the generator.
Outcome two_parts(bool recompute, const at::Tensor& x, const at::Tensor& weight, int* calls) {
  for (const at::Tensor& leaf : {x, weight}) leaf.mutable_grad().reset();
  at::manual_seed(11);
  const auto first = [&](const at::Tensor& h) -> std::vector<at::Tensor> {
    ++*calls;
    return {h, linear(h, weight).tanh()};  // one of the results is the input
  };
  const auto second = [&](const at::Tensor& h) -> std::vector<at::Tensor> {
    return {at::dropout(linear(h, weight), 0.4, /*train=*/at::GradMode::is_enabled())};
  };
  const std::vector<at::Tensor> h = recompute ? recomputed(x, first) : first(x);
  const at::Tensor y = (recompute ? recomputed(h[1], second) : second(h[1]))[0];
  const at::Tensor loss = (h[0] + y).square().sum(), between = at::randn({3});
  torch::autograd::backward({loss}, {});
  return {.loss = loss, .x = x.grad(), .weight = weight.grad(), .next_draw = at::randn({3}) + between};
}

TEST(Recomputed, GivesTheSameValuesGradientsAndDraws) {
  at::manual_seed(1);
  const at::Tensor x = random_leaf({5, 8}), weight = random_leaf({8, 8});
  int plain_calls = 0, calls = 0;
  const Outcome expected = two_parts(false, x, weight, &plain_calls), found = two_parts(true, x, weight, &calls);
  EXPECT_EQ(plain_calls, 1);
  EXPECT_EQ(calls, 2) << "once more in the backward pass";
  EXPECT_TRUE(found.loss.equal(expected.loss));
  EXPECT_TRUE(found.x.equal(expected.x));
  EXPECT_TRUE(found.weight.equal(expected.weight));
  EXPECT_TRUE(found.next_draw.equal(expected.next_draw));
}

TEST(Recomputed, TakesAResultThatNobodyUses) {
  at::manual_seed(1);
  const at::Tensor x = random_leaf({5, 8}), weight = random_leaf({8, 8});
  const auto function = [&](const at::Tensor& h) -> std::vector<at::Tensor> {
    return {h.tanh(), linear(h, weight), h};
  };
  torch::autograd::backward({function(x)[1].square().sum()}, {});
  const at::Tensor expected_x = x.grad().clone(), expected_weight = weight.grad().clone();
  for (const at::Tensor& leaf : {x, weight}) leaf.mutable_grad().reset();
  torch::autograd::backward({recomputed(x, function)[1].square().sum()}, {});
  EXPECT_TRUE(x.grad().equal(expected_x));
  EXPECT_TRUE(weight.grad().equal(expected_weight));
}

TEST(Recomputed, KeepsTheGraphOfAnInputThatHasNone) {
  const at::Tensor x = at::randn({5, 8}), weight = random_leaf({8, 8});
  int calls = 0;
  const std::vector<at::Tensor> y = recomputed(x, [&](const at::Tensor& h) -> std::vector<at::Tensor> {
    ++calls;
    return {linear(h, weight)};
  });
  torch::autograd::backward({y[0].sum()}, {});
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(weight.grad().defined());
}

TEST(Recomputed, BuildsNoGraphWhereNoneIsWanted) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = random_leaf({5, 8});
  const auto doubled = [](const at::Tensor& h) -> std::vector<at::Tensor> { return {h * 2}; };
  EXPECT_FALSE(recomputed(x, doubled)[0].requires_grad());
}

}  // namespace
}  // namespace adept::nn
