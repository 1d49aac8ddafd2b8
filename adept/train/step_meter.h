// The speed of a session's steps.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>

namespace adept::train {

/// Covers the last kWindow steps, so a later epoch, which reads frozen layers from the activation cache, shows its own
/// speed.
class StepMeter {
 public:
  static constexpr std::size_t kWindow = 20;

  /// Above this share of the speed of light, the measured rate is doubtful, because the rest of a step takes time too.
  static constexpr double kDoubtful = 0.9;

  /// `matmul_rate`: floating point operations per second of this machine, see train::matmul_rate.
  explicit StepMeter(double matmul_rate) : matmul_rate_(matmul_rate) {}

  /// Adds a step: its time, tokens and necessary operations. A step faster than the rate shows that the rate was
  /// measured under load, and raises it.
  void add(double seconds, std::int64_t tokens, double flops) {
    raise_rate(flops / seconds);
    steps_.push_back({seconds, flops, tokens});
    if (steps_.size() > kWindow) steps_.pop_front();
  }
  double matmul_rate() const { return matmul_rate_; }
  void raise_rate(double rate) { matmul_rate_ = std::max(matmul_rate_, rate); }

  double seconds_per_step() const { return steps_.empty() ? 0 : sum().seconds / static_cast<double>(steps_.size()); }
  double tokens_per_second() const {
    const Step all = sum();
    return all.seconds > 0 ? static_cast<double>(all.tokens) / all.seconds : 0;
  }
  /// The time that the necessary operations would take at the machine's rate, as a share of the time taken.
  double speed_of_light() const {
    const Step all = sum();
    return all.seconds > 0 ? all.flops / matmul_rate_ / all.seconds : 0;
  }

 private:
  struct Step {
    double seconds = 0, flops = 0;
    std::int64_t tokens = 0;
  };

  Step sum() const {
    Step all;
    for (const Step& step : steps_) {
      all.seconds += step.seconds;
      all.flops += step.flops;
      all.tokens += step.tokens;
    }
    return all;
  }

  double matmul_rate_;
  std::deque<Step> steps_;
};

}  // namespace adept::train
