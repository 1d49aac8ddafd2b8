// How fast the steps of a session are.
#pragma once

#include <cstdint>

namespace adept::train {

class StepMeter {
 public:
  /// `matmul_rate`: floating point operations per second that this machine can do, see train::matmul_rate.
  explicit StepMeter(double matmul_rate) : matmul_rate_(matmul_rate) {}

  /// One step: its time, its tokens, and the operations that it could not do without. Returns the seconds that those
  /// would take.
  double add(double seconds, std::int64_t tokens, double flops) {
    const double light = flops / matmul_rate_;
    seconds_ += seconds;
    tokens_ += tokens;
    light_seconds_ += light;
    ++steps_;
    return light;
  }

  double seconds_per_step() const { return steps_ > 0 ? seconds_ / static_cast<double>(steps_) : 0; }
  double tokens_per_second() const { return seconds_ > 0 ? static_cast<double>(tokens_) / seconds_ : 0; }
  /// The time that the necessary operations would take at the machine's rate, as a share of the time taken.
  double speed_of_light() const { return seconds_ > 0 ? light_seconds_ / seconds_ : 0; }

 private:
  double matmul_rate_;
  double seconds_ = 0, light_seconds_ = 0;
  std::int64_t tokens_ = 0, steps_ = 0;
};

}  // namespace adept::train
