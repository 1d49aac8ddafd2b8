#include "adept/data/mixture.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace adept::data {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

/// The shares of the sources that are left.
class Shares {
 public:
  Shares(const std::vector<MixturePart>& parts, const MixtureSpan& span) : parts_(parts) {
    std::set<double> points;
    for (const MixturePart& part : parts) part.weight.add_progresses(points);
    if (points.empty()) points.insert(0);
    for (const double progress : points)
      points_.push_back({progress, progress == 0 ? span.begin : span.begin + progress * (span.end - span.begin)});
  }

  struct Line {
    std::vector<double> shares, slopes;  // at a position, of each source
    double end = kNever;                 // where the line ends
  };
  Line line_at(double position, const std::vector<bool>& is_left) const {
    const auto after = std::upper_bound(points_.begin(), points_.end(), position,
                                        [](double at, const Point& point) { return at < point.position; });
    const std::vector<double> zeros(parts_.size(), 0.0);
    if (after == points_.begin()) return {at(points_.front().progress, is_left), zeros, after->position};
    if (after == points_.end()) return {at(points_.back().progress, is_left), zeros, kNever};
    const Point& before = *std::prev(after);
    Line line{at(before.progress, is_left), at(after->progress, is_left), after->position};
    for (std::size_t s = 0; s < parts_.size(); ++s) {
      line.slopes[s] = (line.slopes[s] - line.shares[s]) / (after->position - before.position);
      line.shares[s] = std::max(0.0, line.shares[s] + line.slopes[s] * (position - before.position));
    }
    return line;
  }

 private:
  struct Point {
    double progress, position;
  };

  std::vector<double> at(double progress, const std::vector<bool>& is_left) const {
    std::vector<double> shares(parts_.size(), 0.0);
    double sum = 0;
    for (std::size_t s = 0; s < parts_.size(); ++s)
      if (is_left[s]) sum += shares[s] = parts_[s].weight.at(progress);
    for (std::size_t s = 0; s < parts_.size(); ++s) {
      // Only sources of weight 0 may be left.
      if (sum > 0)
        shares[s] /= sum;
      else if (is_left[s])
        shares[s] = 1 / static_cast<double>(std::ranges::count(is_left, true));
    }
    return shares;
  }

  const std::vector<MixturePart>& parts_;
  std::vector<Point> points_;
};

// The smallest t >= 0 with share t + slope t^2 / 2 = amount.
double time_of(double amount, double share, double slope) {
  if (amount <= 0) return 0;
  if (slope == 0) return share > 0 ? amount / share : kNever;
  const double root = share * share + 2 * slope * amount;
  if (root < -1e-12 * share * share) return kNever;  // but for rounding, the share reaches 0 before
  return 2 * amount / (share + std::sqrt(std::max(0.0, root)));
}

}  // namespace

double Mixture::Segment::amount(std::size_t source, double position) const {
  const double t = position - begin;
  return amounts[source] + shares[source] * t + slopes[source] * t * t / 2;
}

double Mixture::Segment::position(std::size_t source, double amount) const {
  return begin + time_of(amount - amounts[source], shares[source], slopes[source]);
}

Mixture::Mixture(const std::vector<MixturePart>& parts, const MixtureSpan& span, MixtureStart start) {
  const Shares shares(parts, span);
  std::vector<double> amounts = start.amounts.empty() ? std::vector<double>(parts.size(), 0.0) : start.amounts;
  std::vector<bool> is_left(parts.size());
  for (std::size_t s = 0; s < parts.size(); ++s) is_left[s] = amounts[s] < static_cast<double>(parts[s].limit);
  for (double begin = start.position;;) {
    if (std::ranges::count(is_left, true) == 0) {
      end_ = begin;
      return;
    }
    const Shares::Line line = shares.line_at(begin, is_left);
    const Segment& segment = segments_.emplace_back(Segment{begin, amounts, line.shares, line.slopes});
    std::vector<double> ends(parts.size(), kNever);
    double next = line.end;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      if (is_left[s] && parts[s].limit != MixturePart::kNoLimit)
        ends[s] = segment.position(s, static_cast<double>(parts[s].limit));
      next = std::min(next, ends[s]);
    }
    if (next == kNever) return;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      if (!is_left[s]) continue;
      // Ends that differ by rounding alone are one.
      is_left[s] = ends[s] > next + 1e-12 * next;
      amounts[s] = is_left[s] ? segment.amount(s, next) : static_cast<double>(parts[s].limit);
    }
    begin = next;
  }
}

const Mixture::Segment& Mixture::segment_at(double position) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), position,
                                      [](double at, const Segment& segment) { return at < segment.begin; });
  return after == segments_.begin() ? segments_.front() : *std::prev(after);
}

double Mixture::share(std::size_t source, double position) const {
  const Segment& segment = segment_at(position);
  return segment.shares[source] + segment.slopes[source] * (position - segment.begin);
}

double Mixture::amount(std::size_t source, double position) const {
  return segment_at(position).amount(source, position);
}

double Mixture::position(std::size_t source, double amount) const {
  const auto gives_nothing = [&](const Segment& s) { return s.shares[source] == 0 && s.slopes[source] == 0; };
  auto segment = segments_.rbegin();
  while (segment + 1 != segments_.rend() && (gives_nothing(*segment) || segment->amounts[source] > amount)) ++segment;
  return segment->position(source, amount);
}

}  // namespace adept::data
