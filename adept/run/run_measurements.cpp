#include "adept/run/run_measurements.h"

#include <string>
#include <utility>
#include <vector>

#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/run/expansion_plan.h"
#include "adept/run/preflight.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

MeasuredModel measured_model(const Measuring& measuring, const fs::path& dir) {
  const config::RunConfig& config = measuring.config;
  return {dir, io::model_identity(io::WeightFiles::open(dir)), config.compute, config.dist.shard_base};
}

}  // namespace

Measured<eval::Results> evaluate_model(const Measuring& measuring, const fs::path& model_dir) {
  MeasuredModel model = measured_model(measuring, model_dir);
  std::vector<eval::EvalSet> sets;
  for (const data::TokenDataset& dataset : measuring.datasets.eval) {
    sets.push_back({dataset.name(), eval_sequences(measuring.config, measuring.model, dataset)});
    tell_samples("eval", {sets.back().sequences});
  }
  eval::Results results = evaluate_sets(model, sets, measuring.config.eval.batch_size, measuring.cache);
  return {std::move(results), model.memory()};
}

Measured<Json> probe_model(const Measuring& measuring) {
  const auto& [config, purpose, base, datasets, cache] = measuring;
  MeasuredModel model = measured_model(measuring, base.dir);
  const at::Device device = model.device();
  const auto general = probe_sequences(datasets.general, config.seq_len, config.probe.max_tokens);
  tell_samples("probe", general);
  Json samples = {{"general", samples_json(general)}};
  const auto batch_size = config.probe.batch_size;
  std::string names = names_of(general);
  std::vector<method::ProbeBatch> domain_batches;
  if (probes_domain(config, purpose)) {
    const auto domain = probe_sequences({datasets.train.front()}, config.seq_len, config.probe.max_tokens);
    tell_samples("probe", domain);
    samples["domain"] = samples_json(domain);
    names = names_of(domain) + ", " + names;
    domain_batches = to_batches(domain, batch_size, device);
  }
  const bool until_separated = config.probe.until_separated;
  const auto rounds = to_rounds(general, batch_size, device, until_separated, general_weights(config.data));
  const std::vector<method::Importance> importances =
      probe_layers(model, names, {rounds, domain_batches},
                   {.methods = {probe_method(config)},
                    .num_lowest = num_copied_layers(config.expand, base.config),
                    .exclude = {config.expand.exclude.begin(), config.expand.exclude.end()},
                    .until_separated = until_separated},
                   cache);
  Json json = method::to_json(importances);
  json["samples"] = samples;
  return {std::move(json), model.memory()};
}

Measured<Json> inspect_copies_of(const Measuring& measuring, const fs::path& model_dir) {
  const auto& [config, purpose, base, datasets, cache] = measuring;
  MeasuredModel model = measured_model(measuring, model_dir);
  const method::Expansion expansion = method::read_expansion(model_dir);
  Json sets = Json::object();
  for (const data::TokenDataset& dataset : datasets.eval) {
    const std::vector<data::SequenceSet> sequences = {
        data::windows(dataset, {.seq_len = config.seq_len, .max_tokens = config.eval.copies_tokens})};
    tell_samples("copies", sequences);
    const auto batches = to_batches(sequences, config.eval.batch_size, model.device());
    sets[dataset.name()] = measure_copies(model, expansion, dataset.name(), batches, cache);
    sets[dataset.name()]["samples"] = samples_json(sequences);
  }
  return {std::move(sets), model.memory()};
}

}  // namespace adept::run
