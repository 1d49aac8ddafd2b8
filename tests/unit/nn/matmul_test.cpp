#include "adept/nn/matmul.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

struct Product {
  std::int64_t rows, depth, columns;
};

// Edges of tiles, panels, blocks of rows and blocks of depth, for every instruction set.
const std::vector<Product> kProducts = {{1, 1, 1},     {2, 3, 5},      {6, 16, 64},   {7, 17, 65},   {13, 129, 63},
                                        {95, 33, 130}, {97, 300, 200}, {200, 64, 8},  {511, 80, 31}, {800, 40, 700},
                                        {96, 1200, 9}, {33, 2100, 70}, {1000, 7, 257}};

// The same numbers in the other memory order.
at::Tensor transposed_memory(const at::Tensor& t) { return t.t().contiguous().t(); }

// Largest difference to the exact product, in units of its rounding: sum of |a b| times the type's epsilon.
double error_of(const at::Tensor& c, const at::Tensor& a, const at::Tensor& b, const at::Tensor& exact) {
  const at::Tensor size = a.to(at::kDouble).abs().mm(b.to(at::kDouble).abs()).add_(1e-30);
  return ((c.to(at::kDouble) - exact).abs() / size).max().item<double>();
}

class MatmulTest : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { at::set_num_threads(GetParam()); }
  void TearDown() override { at::set_num_threads(1); }
};

TEST_P(MatmulTest, IsTheExactProductRoundedOnceWhateverTheMemoryOrder) {
  at::manual_seed(2);
  for (const auto& [rows, depth, columns] : kProducts) {
    SCOPED_TRACE(fmt::format("{} x {} x {}", rows, depth, columns));
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor a = at::randn({rows, depth}).to(type), b = at::randn({depth, columns}).to(type);
      const at::Tensor bias = at::randn({columns}).to(type);
      const at::Tensor exact = a.to(at::kDouble).mm(b.to(at::kDouble));
      const double epsilon = type == at::kFloat ? 1e-6 : 0.004;  // a half unit in the last place of bf16 is 1/256
      for (const at::Tensor& left : {a, transposed_memory(a)})
        for (const at::Tensor& right : {b, transposed_memory(b)}) {
          const at::Tensor plain = matmul_by_kernel(left, right), biased = matmul_by_kernel(left, right, bias);
          EXPECT_LT(error_of(plain, a, b, exact), epsilon);
          const at::Tensor size = a.to(at::kDouble).abs().mm(b.to(at::kDouble).abs()) + bias.to(at::kDouble).abs();
          const at::Tensor error = (biased.to(at::kDouble) - exact - bias.to(at::kDouble)).abs();
          EXPECT_LT((error / size).max().item<double>(), epsilon);
        }
    }
  }
}

TEST_P(MatmulTest, AddsToAnFp32Sum) {
  at::manual_seed(3);
  for (const auto& [rows, depth, columns] : kProducts) {
    const at::Tensor a = at::randn({rows, depth}).to(at::kBFloat16), b = at::randn({depth, columns}).to(at::kBFloat16);
    const at::Tensor start = at::randn({rows, columns});
    at::Tensor sum = start.clone();
    add_matmul_by_kernel(sum, a, b);
    const at::Tensor exact = a.to(at::kDouble).mm(b.to(at::kDouble)) + start.to(at::kDouble);
    const at::Tensor size = a.to(at::kDouble).abs().mm(b.to(at::kDouble).abs()) + start.to(at::kDouble).abs();
    EXPECT_LT(((sum.to(at::kDouble) - exact).abs() / size).max().item<double>(), 1e-6);
  }
}

TEST_P(MatmulTest, GivesTheSameBitsInEveryRunAndWritesNothingElse) {
  at::manual_seed(4);
  const at::Tensor a = at::randn({777, 90}).to(at::kBFloat16), b = at::randn({90, 300}).to(at::kBFloat16);
  const at::Tensor first = matmul_by_kernel(a, b);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(matmul_by_kernel(a, b).equal(first));
  at::Tensor sum = at::zeros({779, 304});
  at::Tensor part = sum.narrow(0, 1, 777).narrow(1, 2, 300);
  add_matmul_by_kernel(part, a, b);
  EXPECT_TRUE(part.to(at::kBFloat16).equal(first));
  sum.narrow(0, 1, 777).narrow(1, 2, 300).zero_();
  EXPECT_EQ(sum.ne(0).sum().item<int>(), 0) << "around it";
}

TEST_P(MatmulTest, KeepsNaNAndInfinityWhereTheyBelong) {
  at::Tensor a = at::randn({20, 30}).to(at::kBFloat16), b = at::randn({30, 40}).to(at::kBFloat16);
  a[3][7] = std::numeric_limits<float>::quiet_NaN();
  b[5][11] = std::numeric_limits<float>::infinity();
  const at::Tensor expected = a.to(at::kDouble).mm(b.to(at::kDouble)), found = matmul_by_kernel(a, b);
  EXPECT_TRUE(found.isnan().equal(expected.isnan()));
  EXPECT_TRUE(found.isinf().equal(expected.isinf()));
}

INSTANTIATE_TEST_SUITE_P(Threads, MatmulTest, ::testing::Values(1, 2, 5));

}  // namespace
}  // namespace adept::nn
