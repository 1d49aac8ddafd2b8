#include "adept/data/weight_schedule.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "adept/core/error.h"

namespace adept::data {

WeightSchedule::WeightSchedule(std::vector<Point> points) : points_(std::move(points)) {
  const auto is_ascending = [](const Point& a, const Point& b) { return a.progress < b.progress; };
  ADEPT_CHECK(!points_.empty() &&
                  std::adjacent_find(points_.begin(), points_.end(), std::not_fn(is_ascending)) == points_.end(),
              "{} points of a schedule, not ascending", points_.size());
}

double WeightSchedule::at(double progress) const {
  const auto after = std::upper_bound(points_.begin(), points_.end(), progress,
                                      [](double at, const Point& point) { return at < point.progress; });
  if (after == points_.begin()) return points_.front().value;
  if (after == points_.end()) return points_.back().value;
  const Point& before = *std::prev(after);
  return std::lerp(before.value, after->value, (progress - before.progress) / (after->progress - before.progress));
}

void WeightSchedule::add_progresses(std::set<double>& progresses) const {
  if (is_constant()) return;
  for (const Point& point : points_) progresses.insert(point.progress);
}

double WeightSchedule::max() const { return std::ranges::max(points_, {}, &Point::value).value; }

WeightSchedule WeightSchedule::scaled(double factor) const {
  WeightSchedule schedule(*this);
  for (Point& point : schedule.points_) point.value *= factor;
  return schedule;
}

Json WeightSchedule::to_json() const {
  if (is_constant()) return points_.front().value;
  Json json = Json::array();
  for (const Point& point : points_) json.push_back({point.progress, point.value});
  return json;
}

}  // namespace adept::data
