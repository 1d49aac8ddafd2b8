// How much of each source a training is to have read at every position of its mixture.
//
// Legend: amounts and positions count sequences, of one source and of all; they may be fractions.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace adept::data {

struct MixturePart {
  static constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

  double weight = 1;              ///< > 0, relative to the other sources that still have sequences
  std::int64_t limit = kNoLimit;  ///< most sequences, >= 1
};

/// The ideal mixture, which divides every sequence by weight. A source that has given its limit stops; the others
/// share what follows in proportion to their weights.
class Mixture {
 public:
  Mixture() = default;
  explicit Mixture(const std::vector<MixturePart>& parts);

  /// The share of a source in the sequences at the beginning, 0 to 1.
  double share(std::size_t source) const { return segments_.front().shares[source]; }
  /// What a source has given at a position up to end().
  double amount(std::size_t source, double position) const;
  /// Where a source has given an amount, at most its limit.
  double position(std::size_t source, double amount) const;
  /// Where every source has given its limit; infinite if one has none.
  double end() const { return end_; }

 private:
  // From `begin` to that of the next one, the shares are constant.
  struct Segment {
    double begin = 0;
    std::vector<double> amounts;  // at `begin`, of each source
    std::vector<double> shares;   // of each source; 0 after its limit
  };

  std::vector<Segment> segments_;
  double end_ = std::numeric_limits<double>::infinity();
};

}  // namespace adept::data
