// Reads the sequences of the next steps while a step computes.
#pragma once

#include <cstdint>
#include <deque>
#include <future>
#include <vector>

#include "adept/data/train_loader.h"

namespace adept::data {

class Prefetcher {
 public:
  /// Steps that are read ahead.
  static constexpr std::int64_t kSteps = 2;

  /// `loader` must outlive it, and must not load another state meanwhile.
  explicit Prefetcher(TrainLoader& loader) : loader_(loader) {}

  /// TrainLoader::next_step. Steps of the same size are read ahead up to `last` sequences in total. Throws what reading
  /// throws. If the system provides no thread, sequences are read when they are needed.
  std::vector<Sequence> next_step(std::int64_t num_sequences, std::int64_t last);

  /// Time that the last call took: in a step, time spent waiting for data.
  double seconds_waited() const { return seconds_waited_; }

 private:
  struct Step {
    std::vector<TrainLoader::Place> places;
    std::future<std::vector<Sequence>> sequences;
  };

  void read_ahead(std::int64_t num_sequences, std::int64_t last);
  std::vector<Sequence> read(const std::vector<TrainLoader::Place>& places) const;

  TrainLoader& loader_;
  std::deque<Step> steps_;
  double seconds_waited_ = 0;
};

}  // namespace adept::data
