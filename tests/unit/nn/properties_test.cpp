// What holds for the other operations beyond agreement with the reference.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <map>
#include <thread>
#include <vector>

#include "adept/core/error.h"
#include "adept/nn/allocator.h"
#include "adept/nn/attention.h"
#include "adept/nn/cross_entropy.h"
#include "adept/nn/gate.h"
#include "adept/nn/kernels.h"
#include "adept/nn/linear.h"
#include "adept/nn/normed_rope.h"
#include "adept/nn/reference.h"
#include "adept/nn/rms_norm.h"
#include "adept/nn/rope.h"
#include "adept/nn/square_sum.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

TEST(SquareSum, IsThatOfTheReferenceForAnySizeAndType) {
  at::manual_seed(3);
  constexpr std::int64_t kBlock = kernels::SquareSums::kBlock;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble})
    for (const std::int64_t size : {std::int64_t{0}, std::int64_t{1}, std::int64_t{17}, kBlock, 3 * kBlock + 5}) {
      const std::vector<at::Tensor> x = {at::randn({size}).to(type), at::randn({24, 40}).to(type).t()};
      const double expected = reference::square_sum(x).item<double>();
      EXPECT_GT(expected, 0);
      EXPECT_NEAR(square_sum(x).item<double>(), expected, 1e-12 * expected) << size << " of " << type;
    }
  EXPECT_EQ(square_sum(std::vector<at::Tensor>{}).item<double>(), 0);
  EXPECT_NEAR(square_sum(at::full({100}, 1e30f)).item<double>(), 1e62, 1e55) << "beyond the range of fp32";
  EXPECT_TRUE(std::isnan(square_sum(at::full({100}, std::numeric_limits<float>::quiet_NaN())).item<double>()));
}

TEST(SquareSum, IsTheSameOnAnyNumberOfThreads) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({100 * kernels::SquareSums::kBlock + 3});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double expected = square_sum(x).item<double>();
  at::set_num_threads(2);
  EXPECT_EQ(square_sum(x).item<double>(), expected);
  at::set_num_threads(threads);
}

TEST(SquareSum, OfPartsThatConsistOfWholeBlocksIsThatOfTheWhole) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({5 * kSquareSumBlock + 3});
  double sum = 0;
  const std::int64_t first = 2 * kSquareSumBlock;
  for (const at::Tensor& part : {x.slice(0, 0, first), x.slice(0, first, first), x.slice(0, first)}) {
    const at::Tensor sums = square_sums(part);
    EXPECT_EQ(sums.numel(), num_square_sums(part.numel()));
    for (std::int64_t i = 0; i < sums.numel(); ++i) sum += sums[i].item<double>();
  }
  EXPECT_EQ(sum, square_sum({x}).item<double>());
}

TEST(SquareSum, WithoutBlocksTheFirstNumberIsTheSum) {
  const at::Tensor x = at::full({3 * kSquareSumBlock}, 2, at::kDouble);
  const at::Tensor sums = square_sums(x);
  EXPECT_EQ(sums[0].item<double>(), square_sum({x}).item<double>());
  EXPECT_EQ(sums.numel(), 3);
  EXPECT_EQ(sums.slice(0, 1).sum().item<double>(), 0);
}

TEST(ThreadWorkspace, IsGivenBackByAllThreads) {
  kernels::functions();  // throws here, not in the thread, where the processor has not what is asked for
  std::thread([] {       // has threads of its own
    const std::int64_t before = thread_workspace_bytes();
    at::set_num_threads(2);
    const at::Tensor x = at::randn({2, 2, 40, 32});
    causal_attention(x, x, x);
    const std::int64_t during = thread_workspace_bytes();
    release_thread_workspaces();
    EXPECT_LT(thread_workspace_bytes(), during);
    EXPECT_LE(thread_workspace_bytes(), before) << "less where threads of other tests have ended meanwhile";
  })
      .join();
}

TEST(Linear, AFrozenWeightStoredInANarrowerTypeGivesTheBitsOfTheWideOne) {
  at::manual_seed(3);
  for (const at::ScalarType stored : {at::kBFloat16, at::kHalf})
    for (const std::int64_t tokens : {1, 5, 300}) {
      const at::Tensor weight = at::randn({24, 40}).to(stored), wide = weight.to(at::kFloat);
      const at::Tensor bias = at::randn({24}), direction = at::randn({2, tokens, 24});
      const at::Tensor x = at::randn({2, tokens, 40}), b = bias.clone().requires_grad_();
      const at::Tensor found_x = x.clone().requires_grad_(), expected_x = x.clone().requires_grad_();
      const at::Tensor found = linear(found_x, weight, b), expected = linear(expected_x, wide, bias);
      EXPECT_TRUE(found.equal(expected));
      EXPECT_TRUE(linear(x, weight, bias).equal(expected)) << "without a graph";
      found.backward(direction);
      expected.backward(direction);
      EXPECT_TRUE(found_x.grad().equal(expected_x.grad()));
      EXPECT_TRUE(test::is_close(b.grad(), direction.sum({0, 1}), 1e-5));
      EXPECT_TRUE(test::is_close(reference::linear(x, weight, bias), expected, 2e-5));
    }
}

TEST(Linear, TakesNoOtherMixtureOfTypes) {
  const at::Tensor x = at::randn({2, 4}), weight = at::randn({3, 4});
  EXPECT_THROW(linear(x, weight.to(at::kBFloat16).requires_grad_()), InternalError);
  EXPECT_THAT(
      [&] { linear(x, weight.to(at::kDouble)); },  // it would be rounded
      testing::ThrowsMessage<InternalError>(testing::HasSubstr("a frozen weight of Double with inputs of Float")));
  EXPECT_THROW(linear(x.to(at::kBFloat16), weight.to(at::kHalf)), InternalError);
}

TEST(Linear, RoundsMastersForBf16) {
  for (const std::int64_t tokens : {3, 40}) {  // fewer and more than are worth a kernel
    const at::Tensor masters[] = {at::randn({24, 40}).requires_grad_(), at::randn({16, 40}).requires_grad_()};
    std::vector<at::Tensor> rounded;
    for (const at::Tensor& master : masters) rounded.push_back(master.detach().to(at::kBFloat16).requires_grad_());
    const auto bf16 = [](const at::Tensor& t) { return t.to(at::kBFloat16); };
    const at::Tensor x = bf16(at::randn({2, tokens, 40}));
    const at::Tensor found_x = x.clone().requires_grad_(), expected_x = x.clone().requires_grad_();
    const auto found = linears({found_x}, {masters[0], masters[1]}, {at::Tensor(), at::Tensor()});
    const auto expected = linears({expected_x}, rounded, {at::Tensor(), at::Tensor()});
    const std::vector<at::Tensor> directions = {bf16(at::randn({2, tokens, 24})), bf16(at::randn({2, tokens, 16}))};
    torch::autograd::backward(found, directions);
    torch::autograd::backward(expected, directions);
    EXPECT_TRUE(found_x.grad().equal(expected_x.grad()));
    for (std::size_t i = 0; i < rounded.size(); ++i) {
      EXPECT_TRUE(found[i].equal(expected[i]));
      EXPECT_EQ(masters[i].grad().scalar_type(), at::kFloat);
      EXPECT_TRUE(masters[i].grad().equal(rounded[i].grad().to(at::kFloat)));
      const at::NoGradGuard no_grad;
      EXPECT_TRUE(linear(x, masters[i].detach()).equal(expected[i])) << "without a graph";
      EXPECT_TRUE(test::is_close(reference::linear(x, masters[i], {}), expected[i], 2e-2));
    }
  }
}

TEST(Linear, HasAnAdapterOrNoneForEachProjection) {
  const at::Tensor x = at::randn({2, 4});
  EXPECT_THAT([&] { with_adapters({x, x}, {x}, {LoraAdapter{}}); },
              testing::ThrowsMessage<InternalError>(testing::HasSubstr("2 projections and 1 adapters")));
  const std::vector<at::Tensor> same = with_adapters({x}, {x}, {LoraAdapter{}});
  EXPECT_TRUE(same.front().is_same(x));
}

// Adapters of one input, of which one has none: each projection gets what it would get alone.
TEST(Linear, OfSeveralAdaptersIsThatOfEachAlone) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({5, 8}), y = at::randn({5, 6});
  const auto adapter = [] { return LoraAdapter{.a = at::randn({2, 8}), .b = at::randn({6, 2}), .scale = 0.5}; };
  const std::vector<LoraAdapter> adapters = {adapter(), LoraAdapter{}, adapter()};
  const std::vector<at::Tensor> all = with_adapters({y, y, y}, {x}, adapters);
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const LoraAdapter& a = adapters[i];
    const at::Tensor expected = a.a.defined() ? y + 0.5 * x.mm(a.a.t()).mm(a.b.t()) : y;
    EXPECT_TRUE(test::is_close(all[i], expected, 1e-5)) << i;
  }
}

TEST(Linear, KeepsNoInputThatCanBeMadeAgainAndHasTheSameGradients) {
  use_caching_allocator();  // it counts
  at::manual_seed(3);
  const std::int64_t tokens = 500, in = 1024, bytes = 4 * tokens * in;
  const at::Tensor gate = at::randn({tokens, in}), up = at::randn({tokens, in});
  std::map<bool, std::vector<at::Tensor>> gradients;
  std::map<bool, std::int64_t> kept;
  for (const bool remade : {false, true}) {
    const at::Tensor g = gate.clone().requires_grad_(), u = up.clone().requires_grad_();
    at::manual_seed(4);
    const at::Tensor weight = at::randn({8, in}).requires_grad_();
    const std::int64_t before = tensor_memory().in_use;
    at::Tensor loss;
    {
      Input input = {gated(g, u, Activation::kSilu)};
      if (remade)
        input = {
            input.value, {g, u}, [](const auto& sources) { return gated(sources[0], sources[1], Activation::kSilu); }};
      loss = linears(input, {weight}, {at::Tensor()}).front().square().sum();
    }
    kept[remade] = tensor_memory().in_use - before;
    loss.backward();
    gradients[remade] = {g.grad(), u.grad(), weight.grad()};
  }
  EXPECT_GE(kept[false], bytes);
  EXPECT_LT(kept[true], bytes / 10);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(gradients[true][i].equal(gradients[false][i])) << i;
}

TEST(RmsNorm, NormalisesInFp32AndRoundsBeforeTheWeight) {
  const at::Tensor x = at::full({1, 4}, 3e30, at::kBFloat16);  // its square overflows nothing if the norm is scaled
  const at::Tensor small = at::full({1, 4}, 1.2345678, at::kBFloat16);
  const at::Tensor weight = at::full({4}, 1.0078125, at::kBFloat16);
  const at::Tensor expected = reference::rms_norm(small, weight, 1e-6);
  EXPECT_TRUE(rms_norm(small, weight, 1e-6).equal(expected));
  EXPECT_EQ(rms_norm(x, weight, 1e-6).scalar_type(), at::kBFloat16);
}

TEST(RmsNorm, RoundsOnceWhereTheConventionSaysSo) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({7, 72}).to(at::kBFloat16), weight = at::randn({72}).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat), w = weight.to(at::kFloat);
  const at::Tensor n = wide * (wide.square().mean(-1, /*keepdim=*/true) + 1e-6).rsqrt();
  const auto differing = [](const at::Tensor& a, const at::Tensor& b) { return a.ne(b).sum().item<int>(); };
  const std::pair<GainConvention, at::Tensor> once[] = {{GainConvention::kWide, n * w},
                                                        {GainConvention::kOnePlus, n * (1 + w)}};
  for (const auto& [gain, expected] : once) {
    // The last bit of an fp32 number seldom decides how it is rounded to bf16, a second rounding often.
    EXPECT_LE(differing(rms_norm(x, weight, 1e-6, gain), expected.to(at::kBFloat16)), 1);
    const at::Tensor twice = gain == GainConvention::kWide ? weight : (1 + weight);
    EXPECT_GT(differing(n.to(at::kBFloat16) * twice, expected.to(at::kBFloat16)), 50);
  }
}

TEST(RmsNorm, AGainThatStandsForZeroLeavesNothing) {
  at::manual_seed(3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor x = at::randn({5, 72}).to(type);
    EXPECT_EQ(rms_norm(x, at::full({72}, -1, type), 1e-6, GainConvention::kOnePlus).count_nonzero().item<int>(), 0);
    EXPECT_EQ(rms_norm(x, at::zeros({72}, type), 1e-6, GainConvention::kWide).count_nonzero().item<int>(), 0);
  }
}

TEST(RmsNorm, OfZerosIsZeroWithAFiniteGradient) {
  const at::Tensor x = at::zeros({2, 6}).requires_grad_();
  const at::Tensor weight = at::ones({6});
  const at::Tensor y = rms_norm(x, weight, 1e-6);
  y.sum().backward();
  EXPECT_EQ(y.abs().max().item<float>(), 0);
  EXPECT_TRUE(test::is_close(x.grad(), at::full({2, 6}, 1000.0), 1e-5));
}

// Recomputation relies on it: a layer that it starts with is not fused with what is below.
TEST(AddRmsNorm, IsTheSumAndItsNormBitForBitWhateverWantsAGradient) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(3);
    const at::Tensor values[] = {at::randn({2, 300, 72}).to(type), at::randn({2, 300, 72}).to(type),
                                 at::randn({72}).to(type)};
    const std::vector<at::Tensor> directions = {at::randn({2, 300, 72}).to(type), at::randn({2, 300, 72}).to(type)};
    for (int wanted = 0; wanted < 8; ++wanted) {
      const auto run = [&](bool fused) {
        std::vector<at::Tensor> inputs, leaves;
        for (int i = 0; i < 3; ++i) {
          inputs.push_back(values[i].clone().set_requires_grad((wanted >> i & 1) != 0));
          if (inputs.back().requires_grad()) leaves.push_back(inputs.back());
        }
        NormedSum y;
        if (fused) {
          y = add_rms_norm(inputs[0], inputs[1], inputs[2], 1e-5);
        } else {
          y.sum = inputs[0] + inputs[1];
          y.normed = rms_norm(y.sum, inputs[2], 1e-5);
        }
        std::vector<at::Tensor> results = {y.sum, y.normed};
        if (leaves.empty()) return results;
        const bool sums = y.sum.requires_grad();
        const auto gradients = sums ? torch::autograd::grad({y.sum, y.normed}, leaves, directions)
                                    : torch::autograd::grad({y.normed}, leaves, {directions[1]});
        results.insert(results.end(), gradients.begin(), gradients.end());
        return results;
      };
      const auto found = run(true), expected = run(false);
      for (std::size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(test::same_bits(found[i], expected[i])) << wanted << " " << i;
    }
  }
}

TEST(AddRmsNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::zeros({2, 8}), gain = at::ones({8});
  EXPECT_THROW(add_rms_norm(x, at::zeros({3, 8}), gain, 1e-5), InternalError);
  EXPECT_THROW(add_rms_norm(x, x.to(at::kBFloat16), gain, 1e-5), InternalError);
  EXPECT_THROW(add_rms_norm(x, x, gain.to(at::kBFloat16), 1e-5), InternalError);
}

TEST(NormedRope, RefusesAGainOfAnotherType) {
  const at::Tensor x = at::zeros({1, 4, 2, 8}), gain = at::ones({8}).to(at::kBFloat16);
  EXPECT_THROW(normed_rope(x, gain, 1e-5, rope_tables({}, 8, 4)), InternalError);
}

TEST(NormedRope, IsTheNormAndTheRotationBitForBit) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::manual_seed(3);
    const at::Tensor x = at::randn({2, 33, 3, 24}).to(type), gain = at::randn({24}).to(type);
    const at::Tensor direction = at::randn({2, 3, 33, 24}).to(type);
    const RopeTables tables = rope_tables({}, 24, 33, type);
    const auto run = [&](bool fused) {
      const at::Tensor a = x.clone().set_requires_grad(true), g = gain.clone().set_requires_grad(true);
      const at::Tensor y =
          fused ? normed_rope(a, g, 1e-5, tables) : apply_rope(rms_norm(a, g, 1e-5).transpose(1, 2), tables);
      const auto gradients = torch::autograd::grad({y}, {a, g}, {direction});
      return std::vector<at::Tensor>{y.contiguous(), gradients[0], gradients[1]};
    };
    const auto found = run(true), expected = run(false);
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(test::same_bits(found[i], expected[i])) << i;
    EXPECT_TRUE(test::same_bits(normed_rope(x, gain, 1e-5, tables).contiguous(), expected[0])) << "without a graph";
  }
}

TEST(Gate, OfLargeNumbersIsFinite) {
  const at::Tensor x = at::tensor({-1e4F, -200.0F, -90.0F, 90.0F, 200.0F, 1e4F}), one = at::ones({6});
  for (const Activation activation : {Activation::kSilu, Activation::kGeluTanh}) {
    const at::Tensor gate = x.clone().requires_grad_();
    const at::Tensor y = gated(gate, one, activation);
    y.sum().backward();
    const at::Tensor open = (x > 0).to(at::kFloat);
    EXPECT_TRUE(test::is_close(y, x * open, 1e-6));
    EXPECT_TRUE(test::is_close(gate.grad(), open, 1e-6));
  }
}

TEST(Operations, BuildNoGraphOverFrozenInputs) {
  const at::Tensor x = at::randn({1, 2, 3, 4}), w = at::randn({4});
  EXPECT_FALSE(rms_norm(x, w, 1e-6).requires_grad());
  EXPECT_FALSE(gated(x, x, Activation::kSilu).requires_grad());
  EXPECT_FALSE(apply_rope(x, rope_tables({}, 4, 3)).requires_grad());
  EXPECT_FALSE(linear_cross_entropy(at::randn({3, 4}), at::randn({5, 4}), at::zeros({3}, at::kLong)).requires_grad());
}

TEST(Operations, FrozenWeightsGetNoGradient) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({2, 3, 4}).requires_grad_();
  const at::Tensor norm = at::randn({4}), head = at::randn({9, 4});
  linear_cross_entropy(rms_norm(x, norm, 1e-6), head, at::randint(0, 9, {2, 3}, at::kLong)).backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(norm.grad().defined());
  EXPECT_FALSE(head.grad().defined());
}

TEST(Operations, RefuseASecondDerivative) {
  const at::Tensor x = at::randn({2, 4}).requires_grad_();
  const at::Tensor loss = gated(x, x, Activation::kSilu).sum();
  EXPECT_THROW(torch::autograd::grad({loss}, {x}, {}, std::nullopt, /*create_graph=*/true), InternalError);
}

}  // namespace
}  // namespace adept::nn
