// Norms on the path that a GPU takes.
#include "adept/nn/rms_norm.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <memory>
#include <string_view>
#include <vector>

#include "tests/support/stand_in_device.h"
#include "tests/support/tolerance.h"

namespace adept::nn {
namespace {

/// Counts the calls of ATen's fused norm. The device has none of its own: ATen composes it of others.
class CountedNorms {
 public:
  CountedNorms() : handle_(at::addGlobalCallback(at::RecordFunctionCallback(look))) { count_ = 0; }
  ~CountedNorms() { at::removeCallback(handle_); }
  CountedNorms(const CountedNorms&) = delete;
  CountedNorms& operator=(const CountedNorms&) = delete;

  std::int64_t count() const { return count_; }

 private:
  static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& function) {
    count_ += std::string_view(function.name()) == "aten::_fused_rms_norm" ? 1 : 0;
    return nullptr;
  }

  inline static std::int64_t count_ = 0;
  at::CallbackHandle handle_;
};

TEST(RmsNorm, OnADeviceIsAtensFusedOne) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({3, 5, 16}), weight = at::randn({16}), slopes = at::randn({3, 5, 16});
  std::int64_t expected_calls = 0;
  const CountedNorms calls;
  for (const GainConvention gain : {GainConvention::kRounded, GainConvention::kWide, GainConvention::kOnePlus}) {
    const auto differentiate = [&](at::Device device) {
      at::Tensor input = x.to(device).detach().requires_grad_(), factor = weight.to(device).detach().requires_grad_();
      const at::Tensor y = rms_norm(input, factor, 1e-6, gain);
      (y * slopes.to(device)).sum().backward();
      return std::vector<at::Tensor>{y.detach().cpu(), input.grad().cpu(), factor.grad().cpu()};
    };
    const std::vector<at::Tensor> found = differentiate(test::kStandIn), expected = differentiate(at::kCPU);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(test::is_close(found[i], expected[i], 1e-5)) << i;
    EXPECT_EQ(calls.count(), ++expected_calls);
  }
}

}  // namespace
}  // namespace adept::nn
