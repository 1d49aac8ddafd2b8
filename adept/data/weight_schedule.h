// A number that may change over a training: the weight of a source, the share of replay.
#pragma once

#include <set>
#include <vector>

#include "adept/core/json.h"

namespace adept::data {

/// Linear between points of progress. Before the first point and after the last one, their values.
class WeightSchedule {
 public:
  struct Point {
    double progress = 0;  ///< 0 to 1: the share of the training's sequences that have been read
    double value = 0;     ///< >= 0

    bool operator==(const Point&) const = default;
  };

  WeightSchedule(double value = 1) : points_{{0, value}} {}  // NOLINT(google-explicit-constructor): a plain number
  /// At least one point, with ascending progress.
  explicit WeightSchedule(std::vector<Point> points);

  const std::vector<Point>& points() const { return points_; }
  bool is_constant() const { return points_.size() == 1; }
  double at(double progress) const;
  /// Where it may bend; nothing if it is constant.
  void add_progresses(std::set<double>& progresses) const;
  /// The highest value.
  double max() const;
  /// Every value times `factor`.
  WeightSchedule scaled(double factor) const;
  /// The number, or [[progress, value], ...].
  Json to_json() const;
  bool operator==(const WeightSchedule&) const = default;

 private:
  std::vector<Point> points_;
};

}  // namespace adept::data
