#include "adept/train/kept_activations.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/core/version_info.h"
#include "adept/dist/process_group.h"
#include "adept/train/compute.h"

namespace adept::train {
namespace {

constexpr const char* kActivationCacheFile = "activations.cache";
constexpr std::string_view kRankPrefix = "activations.rank";  // of the files of other ranks

// Of each process its own.
std::filesystem::path file_of(const std::filesystem::path& run_dir, const dist::ProcessGroup& group) {
  return run_dir / (group.is_first() ? kActivationCacheFile : fmt::format("{}{}.cache", kRankPrefix, group.rank()));
}

// Files of a session with more processes.
void remove_unused_files(const std::filesystem::path& run_dir, const dist::ProcessGroup& group) {
  if (!group.is_first()) return;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kRankPrefix) && std::atoi(name.c_str() + kRankPrefix.size()) >= group.size())
      remove_or_warn(entry);
  }
}

// Fewer uses save less than they cost, because the first batch of each shape is computed twice.
constexpr std::int64_t kFewestUpdates = 4, kFewestEvaluations = 3;

}  // namespace

void KeptActivations::open(std::int64_t step) {
  const config::RunConfig& c = inputs_.config;
  const dist::ProcessGroup& group = dist::world();
  remove_unused_files(inputs_.run_dir, group);
  const auto wanted = static_cast<std::int64_t>(1e9 * c.train.activation_cache / group.size());
  const std::int64_t lowest = inputs_.trainable.lowest_layer();
  if (wanted == 0 || inputs_.trainable.trains_embeddings() || lowest == 0) return drop();
  if (inputs_.decoder.is_shared()) {
    // Ranks that find activations would not take part in the gathering of layers.
    log_info("activation cache: not with dist.shard_base");
    return drop();
  }
  const std::filesystem::path path = file_of(inputs_.run_dir, group);
  const std::int64_t budget = model::room_for_activations(path, wanted, group.size());
  const std::int64_t bytes = bytes_of_training_text();
  keeps_training_text_ = bytes > 0 && bytes <= budget;
  if (bytes > budget)
    log_info(
        "activation cache: {}{} is too small to keep the training text for later epochs, which needs {} "
        "(train.activation_cache)",
        format_bytes(budget), budget < wanted ? " (half of the free disk space)" : "", format_bytes(bytes));
  if (!keeps_training_text_ && updates_left(step) < kFewestUpdates && evaluations_left(step) < kFewestEvaluations)
    return drop();
  const model::Decoder& decoder = inputs_.decoder;
  const std::string fingerprint =
      fmt::format("{} {} {} {} {}", inputs_.frozen_hash, decoder.config().source.dump(),
                  config::to_string(c.compute.kernels), describe_compute(decoder.dtype(), decoder.device()), kCommit);
  const model::ActivationSource source = {.fingerprint = hash_of(fingerprint),
                                          .num_layers = lowest,
                                          .hidden_size = decoder.config().hidden_size,
                                          .dtype = decoder.dtype()};
  try {
    cache_ = std::make_unique<model::ActivationCache>(path, budget, source);
    log_info("activation cache: {}, limit {}", path.string(), format_bytes(budget));
  } catch (const DataError& error) {  // the cache is optional
    log_warning("{}; training continues without the activation cache", error.what());
    drop();
  }
}

model::FrozenPrefix KeptActivations::for_step(const std::vector<data::Sequence>& sequences) const {
  const bool all_come_again = std::all_of(sequences.begin(), sequences.end(),
                                          [&](const data::Sequence& sequence) { return comes_again(sequence); });
  return {inputs_.decoder, cache_.get(), keeps_training_text_ && all_come_again};
}

model::FrozenPrefix KeptActivations::for_update(std::int64_t step) const {
  return {inputs_.decoder, cache_.get(), updates_left(step) > 1};
}

model::FrozenPrefix KeptActivations::for_evaluation(std::int64_t step) const {
  return {inputs_.decoder, cache_.get(), evaluations_left(step) > 0};
}

model::FrozenPrefix KeptActivations::for_reading() const { return {inputs_.decoder, cache_.get(), false}; }

model::ActivationCacheStats KeptActivations::stats() const {
  return in_use() ? cache_->stats() : model::ActivationCacheStats{};
}

void KeptActivations::drop() {
  cache_.reset();
  remove_or_warn(file_of(inputs_.run_dir, dist::world()));
}

bool KeptActivations::comes_again(const data::Sequence& sequence) const {
  return inputs_.loader.repeats_within(sequence.source, inputs_.total_sequences);
}

// Bytes for one epoch of the sources that repeat.
std::int64_t KeptActivations::bytes_of_training_text() const {
  const data::TrainLoader& loader = inputs_.loader;
  std::int64_t sequences = 0;
  for (std::int64_t source = 0; source < loader.num_sources(); ++source)
    if (loader.repeats_within(source, inputs_.total_sequences)) sequences += loader.sequences_per_epoch(source);
  return sequences * inputs_.config.seq_len * inputs_.decoder.config().hidden_size *
         static_cast<std::int64_t>(at::elementSize(inputs_.decoder.dtype()));
}

// One before the first step, then one every update_every steps.
std::int64_t KeptActivations::updates_left(std::int64_t step) const {
  const method::UnitLrOptions& c = inputs_.config.unit_lr;
  if (!c.uses_importance()) return 0;
  return (inputs_.total_steps + c.update_every - 1) / c.update_every - (step + c.update_every - 1) / c.update_every;
}

// None is due after the last step.
std::int64_t KeptActivations::evaluations_left(std::int64_t step) const {
  const std::int64_t every = inputs_.config.train.eval_steps;
  return every == 0 || !inputs_.has_eval_text ? 0 : (inputs_.total_steps - 1) / every - step / every;
}

}  // namespace adept::train
