// Every operation against its plain reference, values and gradients, and against finite differences in fp64.
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "adept/nn/kernels.h"
#include "tests/support/operation_cases.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

using Inputs = test::OperationInputs;

class Operations : public ::testing::TestWithParam<test::OperationCase> {};

struct Result {
  at::Tensor value;
  Inputs gradients;
};

Result run(const test::Operation& operation, const Inputs& values, const at::Tensor& direction) {
  Inputs inputs;
  for (const at::Tensor& value : values) inputs.push_back(value.detach().clone().requires_grad_());
  Result result;
  result.value = operation(inputs);
  const at::Tensor seed = direction.defined() ? direction : at::ones_like(result.value);
  result.value.backward(seed.to(result.value.scalar_type()));
  for (const at::Tensor& input : inputs) {
    result.gradients.push_back(input.grad().defined() ? input.grad() : at::zeros_like(input));
  }
  return result;
}

void compare_with_reference(const test::OperationCase& c, at::ScalarType type) {
  at::manual_seed(1);
  const Inputs values = c.inputs(type);
  Inputs wide;
  for (const at::Tensor& value : values) wide.push_back(value.to(at::kDouble));
  const at::Tensor direction = at::randn_like(c.reference(wide));
  const Result found = run(c.fast, values, direction), expected = run(c.reference, wide, direction);
  const auto limit = test::tolerance(type);
  EXPECT_TRUE(test::is_close(found.value, expected.value, limit.values));
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(found.gradients[i].scalar_type(), type);
    EXPECT_TRUE(test::is_close(found.gradients[i], expected.gradients[i], limit.gradients)) << "gradient " << i;
  }
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(test::is_close(c.fast(values), found.value, limit.values)) << "without a graph";
}

TEST_P(Operations, EqualsItsReferenceInFp32) { compare_with_reference(GetParam(), at::kFloat); }
TEST_P(Operations, EqualsItsReferenceInBf16) { compare_with_reference(GetParam(), at::kBFloat16); }

TEST_P(Operations, IsItsReferenceWhereThatIsChosen) {
  at::manual_seed(1);
  const Inputs values = GetParam().inputs(at::kFloat);
  set_kernels(Kernels::kReference);
  const at::Tensor found = GetParam().fast(values);
  set_kernels(Kernels::kFused);
  EXPECT_TRUE(found.equal(GetParam().reference(values)));
}

// Along a random direction u of all inputs: (f(x + h u) - f(x - h u)) / 2h against the gradient's product with u.
TEST_P(Operations, GradientEqualsFiniteDifferencesInFp64) {
  at::manual_seed(2);
  const Inputs values = GetParam().inputs(at::kDouble);
  const at::Tensor direction = at::randn_like(GetParam().fast(values));
  const Result result = run(GetParam().fast, values, direction);
  const double h = 1e-6;
  for (std::size_t i = 0; i < values.size(); ++i) {
    Inputs above = values, below = values;
    const at::Tensor u = at::randn_like(values[i]);
    above[i] = values[i] + h * u;
    below[i] = values[i] - h * u;
    const at::Tensor slope = (GetParam().fast(above) - GetParam().fast(below)) / (2 * h);
    const at::Tensor numeric = (slope * direction).sum(), analytic = (result.gradients[i] * u).sum();
    // The differences themselves are good to about 1e-10 of the value.
    const at::Tensor scale =
        (result.gradients[i] * u).abs().sum() + 1e-3 * (result.value * direction).abs().sum() + 1e-12;
    const double error = ((numeric - analytic).abs() / scale).item<double>();
    EXPECT_TRUE(error <= test::tolerance(at::kDouble).gradients) << "input " << i << ", error " << error;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, Operations, ::testing::ValuesIn(test::operation_cases()),
                         [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace adept::nn
