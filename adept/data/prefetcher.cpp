#include "adept/data/prefetcher.h"

#include <algorithm>
#include <chrono>
#include <system_error>
#include <utility>

namespace adept::data {

std::vector<Sequence> Prefetcher::next_step(std::int64_t num_sequences, std::int64_t last) {
  const auto began = std::chrono::steady_clock::now();
  const std::vector<TrainLoader::Place> places = loader_.upcoming(num_sequences);
  std::vector<Sequence> sequences;
  if (!steps_.empty() && steps_.front().places == places) {
    Step step = std::move(steps_.front());
    steps_.pop_front();
    sequences = step.sequences.get();
  } else {
    steps_.clear();
    sequences = read(places);
  }
  loader_.advance(places);
  read_ahead(num_sequences, last);
  seconds_waited_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return sequences;
}

void Prefetcher::read_ahead(std::int64_t num_sequences, std::int64_t last) {
  while (std::ssize(steps_) < kSteps) {
    std::int64_t ahead = 0;
    for (const Step& step : steps_) ahead += std::ssize(step.places);
    const std::int64_t size = std::min(num_sequences, last - loader_.num_sequences() - ahead);
    if (size <= 0) return;
    std::vector<TrainLoader::Place> places = loader_.upcoming(size, ahead);
    try {
      std::future<std::vector<Sequence>> sequences =
          std::async(std::launch::async, [this, places] { return read(places); });
      steps_.push_back({std::move(places), std::move(sequences)});
    } catch (const std::system_error&) {
      return;
    }
  }
}

std::vector<Sequence> Prefetcher::read(const std::vector<TrainLoader::Place>& places) const {
  std::vector<Sequence> sequences;
  sequences.reserve(places.size());
  for (const TrainLoader::Place& place : places) sequences.push_back(loader_.read(place));
  return sequences;
}

}  // namespace adept::data
