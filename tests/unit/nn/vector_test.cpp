// The functions of vectors of adept/kernels/simd, of the instruction set that tests are compiled for.
#include "adept/kernels/simd/vector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace adept::kernels {
namespace {

// In units in the last place of the exact result.
double error_of_tanh(float x) {
  const double found = hyperbolic_tangent(splat(x))[0], exact = std::tanh(static_cast<double>(x));
  const auto rounded = static_cast<float>(std::abs(exact));
  const double unit = static_cast<double>(std::nextafter(rounded, 2.0f)) - static_cast<double>(rounded);
  return std::abs(found - exact) / unit;
}

TEST(Vectors, TanhIsWithinFourUnitsInTheLastPlace) {
  double worst = 0;
  for (double x = 1e-30; x < 1e30; x *= 1.0007)
    for (const double signed_x : {x, -x}) worst = std::max(worst, error_of_tanh(static_cast<float>(signed_x)));
  EXPECT_LE(worst, 4);
  EXPECT_GT(worst, 0);
  EXPECT_EQ(hyperbolic_tangent(Vector{})[0], 0);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(hyperbolic_tangent(splat(kInfinity))[0], 1);
  EXPECT_EQ(hyperbolic_tangent(splat(-kInfinity))[0], -1);
  EXPECT_TRUE(std::isnan(hyperbolic_tangent(splat(std::numeric_limits<float>::quiet_NaN()))[0]));
}

}  // namespace
}  // namespace adept::kernels
