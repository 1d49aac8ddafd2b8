#include "adept/data/mixture.h"

#include <algorithm>

namespace adept::data {
namespace {

std::vector<double> shares_of(const std::vector<MixturePart>& parts, const std::vector<double>& amounts) {
  std::vector<double> shares(parts.size(), 0.0);
  double sum = 0;
  for (std::size_t s = 0; s < parts.size(); ++s)
    if (amounts[s] < static_cast<double>(parts[s].limit)) sum += shares[s] = parts[s].weight;
  for (double& share : shares) share /= sum;
  return shares;
}

}  // namespace

Mixture::Mixture(const std::vector<MixturePart>& parts) {
  std::vector<double> amounts(parts.size(), 0.0), ends(parts.size());
  double begin = 0;
  const auto is_left = [&](std::size_t s) { return amounts[s] < static_cast<double>(parts[s].limit); };
  for (std::size_t num_left = parts.size(); num_left > 0;) {
    const Segment& segment = segments_.emplace_back(Segment{begin, amounts, shares_of(parts, amounts)});
    double next = std::numeric_limits<double>::infinity();
    for (std::size_t s = 0; s < parts.size(); ++s) {
      const bool has_limit = is_left(s) && parts[s].limit != MixturePart::kNoLimit;
      ends[s] = has_limit ? begin + (static_cast<double>(parts[s].limit) - amounts[s]) / segment.shares[s]
                          : std::numeric_limits<double>::infinity();
      next = std::min(next, ends[s]);
    }
    if (next == std::numeric_limits<double>::infinity()) return;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      if (!is_left(s)) continue;
      // Ends that differ by rounding alone are one.
      const bool is_done = ends[s] <= next + 1e-12 * next;
      amounts[s] = is_done ? static_cast<double>(parts[s].limit) : amounts[s] + segment.shares[s] * (next - begin);
      num_left -= is_done ? 1 : 0;
    }
    begin = next;
  }
  end_ = begin;
}

double Mixture::amount(std::size_t source, double position) const {
  const auto after = std::upper_bound(segments_.begin(), segments_.end(), position,
                                      [](double at, const Segment& segment) { return at < segment.begin; });
  const Segment& segment = *std::prev(after);
  return segment.amounts[source] + segment.shares[source] * (position - segment.begin);
}

double Mixture::position(std::size_t source, double amount) const {
  auto segment = segments_.rbegin();
  while (segment + 1 != segments_.rend() && (segment->shares[source] == 0 || segment->amounts[source] > amount))
    ++segment;
  return segment->begin + (amount - segment->amounts[source]) / segment->shares[source];
}

}  // namespace adept::data
