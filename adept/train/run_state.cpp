#include "adept/train/run_state.h"

#include <fmt/format.h>

namespace adept::train {

std::filesystem::path RunState::path() const { return run_dir_ / fmt::format("checkpoint-{}", counts.step); }

void RunState::restore(Trainable& trainable, data::OtherMixture other) {
  auto loaded =
      load_newest_checkpoint(run_dir_, identity_, optimizer,
                             [&](const std::string& name, const at::Tensor& m) { trainable.set_leaf(name, m); });
  if (!loaded) return;
  counts = std::move(*loaded);
  loader.load_state(counts.loader, path().string(), other);
  known_whole_ = {path()};
  saved_step_ = counts.step;
}

std::string RunState::write(std::int64_t total_limit, dist::ProcessGroup& group) {
  counts.loader = loader.state();
  optim::WholeTensors tensors(optimizer.state(), group);
  std::string problem;
  tensors.on_first([&] {
    try {
      save_checkpoint(run_dir_, counts, identity_, optimizer, tensors);
    } catch (const DataError& error) {
      problem = error.what();
      return;
    }
    known_whole_.insert(path());
    if (counts.nonfinite_in_row == 0) prune_checkpoints(run_dir_, total_limit, known_whole_, counts.last_verified_step);
  });
  return group.broadcast(problem);
}

}  // namespace adept::train
