#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "adept/core/error.h"
#include "adept/optim/adamw.h"
#include "adept/optim/schedule.h"
#include "tests/support/whole_rates.h"

namespace adept::optim {
namespace {

std::vector<Parameter> two_parameters() {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  return {{"matrix", at::randn({7, 19}, options)}, {"gain", at::randn({33}, options)}};
}

std::vector<at::Tensor> gradients_for(const std::vector<Parameter>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const Parameter& p : parameters) gradients.push_back(at::randn_like(p.master));
  return gradients;
}

// The update of AdamW written out, in fp64.
at::Tensor adamw_by_hand(const at::Tensor& start, const at::Tensor& grad, double rate, const AdamWOptions& o,
                         double decay, int updates) {
  at::Tensor p = start.to(at::kDouble), g = grad.to(at::kDouble), m = at::zeros_like(p), v = at::zeros_like(p);
  for (int t = 1; t <= updates; ++t) {
    p = p * (1 - rate * decay);
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const at::Tensor m_hat = m / (1 - std::pow(o.beta1, t)), v_hat = v / (1 - std::pow(o.beta2, t));
    p = p - rate * m_hat / (v_hat.sqrt() + o.eps);
  }
  return p;
}

TEST(AdamW, FollowsTheFormulaWithARatePerUnitAndDecaysMatricesOnly) {
  const auto parameters = two_parameters();
  const at::Tensor matrix = parameters[0].master.clone(), gain = parameters[1].master.clone();
  const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  AdamW adamw(parameters, options);
  const auto grads = gradients_for(parameters);
  for (int i = 0; i < 3; ++i)
    adamw.step(grads, test::whole_rates(adamw.parameters(), {{"matrix", 1e-2}, {"gain", 3e-2}}));
  const at::Tensor matrix_error =
      (adamw_by_hand(matrix, grads[0], 1e-2, options, 0.1, 3) - parameters[0].master).abs().max();
  const at::Tensor gain_error =
      (adamw_by_hand(gain, grads[1], 3e-2, options, 0.0, 3) - parameters[1].master).abs().max();
  EXPECT_LE(matrix_error.item<double>(), 1e-6);
  EXPECT_LE(gain_error.item<double>(), 1e-6);
}

TEST(AdamW, EqualRatesAreThePlainFusedUpdateBitForBit) {
  const auto parameters = two_parameters();
  const auto grads = gradients_for(parameters);
  std::vector<at::Tensor> values, first, second, counts;
  for (const Parameter& p : parameters) {
    values.push_back(p.master.clone());
    first.push_back(at::zeros_like(p.master));
    second.push_back(at::zeros_like(p.master));
    counts.push_back(at::full({}, 1.0, p.master.options()));
  }
  at::_fused_adamw_(values, grads, first, second, {}, counts, 1e-3, 0.9, 0.95, 0.0, 1e-8, false, false);
  AdamW adamw(parameters, {});
  adamw.step(grads, test::whole_rates(adamw.parameters(), {{"matrix", 1e-3}, {"gain", 1e-3}}));
  EXPECT_TRUE(at::equal(values[0], parameters[0].master));
  EXPECT_TRUE(at::equal(values[1], parameters[1].master));
}

TEST(AdamW, ARateOfZeroLeavesTheUnitBitIdentical) {
  const auto parameters = two_parameters();
  const at::Tensor before = parameters[0].master.clone(), other = parameters[1].master.clone();
  AdamW adamw(parameters, {.weight_decay = 0.5});
  adamw.step(gradients_for(parameters), test::whole_rates(adamw.parameters(), {{"matrix", 0.0}, {"gain", 1e-3}}));
  EXPECT_TRUE(at::equal(before, parameters[0].master));
  EXPECT_FALSE(at::equal(other, parameters[1].master));
}

TEST(AdamW, ClippingScalesTheGradientInsideTheUpdate) {
  const auto parameters = two_parameters();
  auto scaled = two_parameters();
  const auto grads = gradients_for(parameters);
  std::vector<at::Tensor> quarters;
  for (std::size_t i = 0; i < 2; ++i) {
    scaled[i].master.copy_(parameters[i].master);
    quarters.push_back(grads[i] * 0.25);
  }
  AdamW clipped(parameters, {}), plain(scaled, {});
  clipped.step(grads, test::whole_rates(clipped.parameters(), {{"matrix", 1e-3}, {"gain", 1e-3}}), 0.25);
  plain.step(quarters, test::whole_rates(plain.parameters(), {{"matrix", 1e-3}, {"gain", 1e-3}}));
  EXPECT_TRUE(at::equal(parameters[0].master, scaled[0].master));
}

TEST(AdamW, RefusesMissingRatesAndGradientsAndRepeatedNames) {
  auto parameters = two_parameters();
  AdamW adamw(parameters, {});
  const auto grads = gradients_for(parameters);
  const auto rates = test::whole_rates(parameters, {{"matrix", 1.0}, {"gain", 1.0}});
  EXPECT_THROW(adamw.step(grads, test::whole_rates(adamw.parameters(), {{"matrix", 1.0}})), InternalError);
  EXPECT_THROW(adamw.step(grads, test::whole_rates(adamw.parameters(), {{"matrix", 1.0}, {"other", 1.0}})),
               InternalError);
  EXPECT_THROW(adamw.step({grads[0]}, rates), InternalError);
  EXPECT_THROW(adamw.step({grads[0], at::Tensor()}, rates), InternalError);
  EXPECT_THROW(adamw.step({grads[0], grads[0]}, rates), InternalError);
  EXPECT_THROW(adamw.step({grads[0], grads[1].to(at::kDouble)}, rates), InternalError);
  parameters[1].name = "matrix";
  EXPECT_THROW(AdamW(parameters, {}), InternalError);
}

TEST(GradNorm, IsTheNormOfAllGradientsTogetherAndShowsNonFiniteValues) {
  const auto grads = gradients_for(two_parameters());
  const double expected = std::sqrt(grads[0].to(at::kDouble).square().sum().item<double>() +
                                    grads[1].to(at::kDouble).square().sum().item<double>());
  EXPECT_NEAR(std::sqrt(squared_grad_norm(grads).item<double>()), expected, 1e-9 * expected);
  grads[1][3] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(std::sqrt(squared_grad_norm(grads).item<double>())));
  grads[1][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(std::sqrt(squared_grad_norm(grads).item<double>())));
}

TEST(GradNorm, ClipFactorOnlyEverShrinks) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(100.0, 0.0), 1.0);
  EXPECT_NEAR(clip_factor(4.0, 1.0), 0.25, 1e-6);
}

TEST(Schedule, WarmsUpLinearlyFromTheFirstStep) {
  const Schedule s{.kind = ScheduleKind::kConstant, .total_steps = 10, .warmup_steps = 4};
  EXPECT_DOUBLE_EQ(s.factor(0), 0.25);
  EXPECT_DOUBLE_EQ(s.factor(3), 1.0);
  EXPECT_DOUBLE_EQ(s.factor(9), 1.0);
}

TEST(Schedule, LinearAndCosineEndAtTheMinimum) {
  for (const ScheduleKind kind : {ScheduleKind::kLinear, ScheduleKind::kCosine}) {
    const Schedule s{.kind = kind, .total_steps = 110, .warmup_steps = 10, .min_ratio = 0.1};
    EXPECT_DOUBLE_EQ(s.factor(10), 1.0);
    EXPECT_NEAR(s.factor(60), 0.55, 1e-12);
    EXPECT_NEAR(s.factor(110), 0.1, 1e-12);
    EXPECT_NEAR(s.factor(500), 0.1, 1e-12);
  }
  const Schedule cosine{.kind = ScheduleKind::kCosine, .total_steps = 100};
  EXPECT_NEAR(cosine.factor(25), 0.5 * (1 + std::sqrt(0.5)), 1e-12);
}

TEST(Schedule, WsdIsStableUntilTheDecay) {
  const Schedule s{
      .kind = ScheduleKind::kWsd, .total_steps = 100, .warmup_steps = 10, .decay_steps = 20, .min_ratio = 0.0};
  EXPECT_DOUBLE_EQ(s.factor(10), 1.0);
  EXPECT_DOUBLE_EQ(s.factor(80), 1.0);
  EXPECT_NEAR(s.factor(90), 0.5, 1e-12);
  EXPECT_NEAR(s.factor(100), 0.0, 1e-12);
}

// Each row, or each column, has the rate of its slice.
TEST(AdamW, TakesEverySliceAtItsOwnRate) {
  for (const std::int64_t dim : {0, 1}) {
    at::manual_seed(5);
    const at::Tensor start = at::randn({7, 9}), gradient = at::randn({7, 9});
    const std::vector<RateSlice> slices = {{dim, 0, 2, 1e-2}, {dim, 2, 3, 0.0}, {dim, 3, start.size(dim), 3e-2}};
    const auto updated = [&](const std::vector<RateSlice>& rates) {
      AdamW adamw({{.name = "m", .master = start.clone()}}, {.weight_decay = 0.1});
      for (int i = 0; i < 3; ++i) adamw.step({gradient.clone()}, {{"m", rates}}, 0.5);
      return std::vector<at::Tensor>{adamw.parameters()[0].master, adamw.moments().at("m").exp_avg,
                                     adamw.moments().at("m").exp_avg_sq};
    };
    const auto found = updated(slices);
    for (const RateSlice& slice : slices) {
      const auto whole = updated({{dim, 0, start.size(dim), slice.rate}});
      for (std::size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(at::allclose(found[i].slice(dim, slice.begin, slice.end),
                                 whole[i].slice(dim, slice.begin, slice.end), 1e-6, 1e-9))
            << dim << " " << slice.begin;
    }
    EXPECT_TRUE(at::equal(found[0].slice(dim, 2, 3), start.slice(dim, 2, 3))) << "a rate of 0 changes no bit";
  }
}

TEST(AdamW, RefusesRatesThatDoNotCoverAParameterOnce) {
  AdamW adamw({{.name = "m", .master = at::zeros({4, 2})}}, {});
  for (const std::vector<RateSlice>& slices : {std::vector<RateSlice>{},
                                               {{0, 0, 3, 1.0}},
                                               {{0, 0, 3, 1.0}, {0, 2, 4, 1.0}},
                                               {{0, 0, 2, 1.0}, {1, 2, 4, 1.0}},
                                               {{0, 1, 4, 1.0}},
                                               {{0, 0, 5, 1.0}}})
    EXPECT_THROW(adamw.step({at::zeros({4, 2})}, {{"m", slices}}), InternalError);
}

}  // namespace
}  // namespace adept::optim
