// How much of each source a training is to have read at every position of its mixture.
//
// Legend: amounts and positions count sequences, of one source and of all; they may be fractions.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "adept/data/weight_schedule.h"

namespace adept::data {

struct MixturePart {
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  WeightSchedule weight{};        ///< relative to the other sources that still have sequences; not always 0
  std::int64_t limit = kNoLimit;  ///< most sequences, >= 1
};

/// Where the weights are those of progress 0 and 1. Constant weights do not depend on it.
struct MixtureSpan {
  double begin = 0;
  double end = std::numeric_limits<double>::infinity();

  bool operator==(const MixtureSpan&) const = default;
};

/// Where a mixture continues: what was given before, in whatever way.
struct MixtureStart {
  double position = 0;
  /// Of each source; empty: zeros. They sum to the position, or to less if sources that were removed gave some.
  std::vector<double> amounts{};
};

/// The ideal mixture, which divides every sequence by weight. A source that has given its limit stops; the others
/// share what follows in proportion to their weights. Between two points of any schedule, shares change linearly.
class Mixture {
 public:
  Mixture() = default;
  explicit Mixture(const std::vector<MixturePart>& parts, const MixtureSpan& span = {}, MixtureStart start = {});

  /// The share of a source in the sequences at a position from the start on, 0 to 1.
  double share(std::size_t source, double position) const;
  /// What a source has given at a position from the start to end().
  double amount(std::size_t source, double position) const;
  /// Where a source has given an amount, from that at the start to its limit; infinite if it never does.
  double position(std::size_t source, double amount) const;
  /// Where every source has given its limit; infinite if one has none.
  double end() const { return end_; }

 private:
  // From `begin` to that of the next one, shares are linear and amounts quadratic.
  struct Segment {
    double begin = 0;
    std::vector<double> amounts;  // at `begin`, of each source
    std::vector<double> shares;   // at `begin`, of each source; 0 after its limit
    std::vector<double> slopes;   // of the shares, per sequence

    double amount(std::size_t source, double position) const;
    double position(std::size_t source, double amount) const;
  };

  const Segment& segment_at(double position) const;

  std::vector<Segment> segments_;
  double end_ = std::numeric_limits<double>::infinity();
};

}  // namespace adept::data
