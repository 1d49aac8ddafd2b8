#include "adept/run/measure.h"

#include <cmath>
#include <span>
#include <string>

#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/version_info.h"
#include "adept/dist/process_group.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/compute.h"
#include "adept/train/sharded_layers.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

// Hash of the sequences and their coverage.
std::string fingerprint(const data::SequenceSet& sequences) {
  Hasher hasher;
  for (std::int64_t i = 0; i < sequences.size(); ++i) {
    const data::Sequence sequence = sequences[i];
    hasher.update(
        fmt::format("{} {} {} ", sequence.tokens.size(), sequence.first_target, sequence.document_starts.size()));
    hasher.update(std::as_bytes(std::span(sequence.tokens)));
    hasher.update(std::as_bytes(std::span(sequence.document_starts)));
    hasher.update(std::as_bytes(std::span(sequence.untrained)));
  }
  const data::SequenceCounts& counts = sequences.counts();
  return hasher.update(fmt::format("{} {}", counts.bytes, data::to_json(counts.size()).dump())).digest();
}

// Everything besides the text that a result depends on.
Json key_of(const char* what, const MeasuredModel& model) {
  const config::Compute& c = model.compute();
  return {{"what", what},
          {"model", io::to_json(model.identity())},
          {"compute", fmt::format("{}, {} kernels, adept {}",
                                  train::describe_compute(model::to_scalar_type(c.decided_dtype()), model.device()),
                                  config::to_string(c.kernels), kCommit)}};
}

// Results that the first process finds in its cache, or keeps there, are those of all.
class SharedResults {
 public:
  explicit SharedResults(const ResultCache& cache) : cache_(cache) {}

  const fs::path& directory() const { return cache_.directory(); }

  /// Throws DisagreementError if the processes would measure something different.
  std::optional<Json> find(const Json& key) const {
    group_.agree([&] {
      dist::HeldByName held;
      const Json parts = key.flatten();
      for (const auto& [path, value] : parts.items())
        if (path != "/compute") held["measurement: " + path.substr(1)] = {value.dump()};
      return held;
    });
    const std::optional<Json> found = group_.is_first() ? cache_.find(key) : std::nullopt;
    const std::string text = group_.broadcast(found ? found->dump() : "");
    return text.empty() ? std::nullopt : std::optional(Json::parse(text));
  }
  bool keep(const Json& key, const Json& result) const {
    return group_.of_first(group_.is_first() && cache_.keep(key, result) ? 1 : 0) > 0;
  }
  void remove(const Json& key) const {
    if (group_.is_first()) cache_.remove(key);
  }

 private:
  const ResultCache& cache_;
  dist::ProcessGroup& group_ = dist::world();
};

void tell_kept(const char* stage, const std::string& what, const SharedResults& cache) {
  log_info("{:<10} {}: cached result from {} (ADEPT_RESULT_CACHE=off measures again)", stage, what,
           cache.directory().string());
}

Json list_of(const std::vector<method::Importance>& importances) {
  Json list = Json::array();
  for (const method::Importance& importance : importances) list.push_back(method::to_json(importance));
  return list;
}

std::vector<method::Importance> importances_of(const Json& list) {
  std::vector<method::Importance> importances;
  for (const Json& json : list) importances.push_back(method::importance_from_json(json, "result cache"));
  return importances;
}

// Progress of this probe from an earlier, interrupted session.
method::ProbeState probe_state(const SharedResults& cache, const Json& key) {
  const std::optional<Json> found = cache.find(key);
  if (!found) return {};
  try {
    return {.batches = found->at("batches").get<std::int64_t>(),
            .samples = method::samples_from_json(found->at("samples"))};
  } catch (const std::exception&) {  // for example a non-finite loss
    return {};
  }
}

}  // namespace

InterruptedError interrupted(const InterruptedError& error, const std::string& kept) {
  return {fmt::format("{}; {}; the same command continues from there", error.what(), kept), error.exit_code()};
}

at::Device MeasuredModel::device() const { return train::to_device(compute_.device); }

model::Decoder& MeasuredModel::decoder() {
  if (decoder_) return *decoder_;
  const model::LoadOptions options = train::load_options(compute_);
  decoder_ = divides_layers_ ? train::load_sharded(dir_, options) : model::load_decoder(dir_, options);
  dist::world().meet();  // loading may take longer than the time-out
  if (divides_layers_) log_info("{}: {}", dir_.string(), decoder_->weights().source->describe(decoder_->num_layers()));
  bytes_.emplace(device());
  return *decoder_;
}

train::MemoryUse MeasuredModel::memory() const {
  train::MemoryUse memory;
  if (!decoder_) return memory;
  memory.weights = train::weight_bytes(*decoder_);
  memory.work_space = bytes_->most();
  memory.peak = memory.weights + memory.work_space;
  return memory;
}

eval::Results evaluate_sets(MeasuredModel& model, const std::vector<eval::EvalSet>& sets, std::int64_t batch_size,
                            const ResultCache& results_of_first) {
  const SharedResults cache(results_of_first);
  eval::Results results;
  std::size_t kept = 0;
  for (const eval::EvalSet& set : sets) {
    Json key = key_of("evaluation", model);
    key["metrics"] = eval::metric_names();
    key["text"] = fingerprint(set.sequences);
    key["batch_size"] = batch_size;
    if (const std::optional<Json> found = cache.find(key)) {
      results[set.name] = eval::result_from_json(*found, "result cache");
      tell_kept("eval", set.name, cache);
      ++kept;
      continue;
    }
    const model::Decoder& decoder = model.decoder();
    try {
      results[set.name] = eval::evaluate(decoder, set, {.batch_size = batch_size});
    } catch (const InterruptedError& error) {
      throw interrupted(error, fmt::format("saved {} of {} evaluation sets", kept, sets.size()));
    }
    const eval::Result& result = results[set.name];
    if (std::isfinite(result.headline().value) && cache.keep(key, eval::to_json(result))) ++kept;
  }
  return results;
}

std::vector<method::Importance> probe_layers(MeasuredModel& model, const std::string& name,
                                             const method::ProbeText& text, const method::ProbeOptions& options,
                                             const ResultCache& results_of_first) {
  const SharedResults cache(results_of_first);
  Json key = key_of("probe", model);
  std::int64_t num_batches = 0;
  for (const auto& round : text.general) {
    key["text"].push_back(method::fingerprint(round));
    num_batches += std::ssize(round);
  }
  key["domain"] = method::fingerprint(text.domain);
  key["methods"] = options.methods;
  Json key_of_samples = key;
  key_of_samples["what"] = "samples of a probe";
  key["num_lowest"] = options.num_lowest;
  key["exclude"] = options.exclude;
  key["until_separated"] = options.until_separated;
  if (const std::optional<Json> found = cache.find(key)) {
    tell_kept("probe", "scores", cache);
    return importances_of(*found);
  }
  method::ProbeState state = probe_state(cache, key_of_samples);
  if (state.batches > 0)
    log_info("probe      resuming after {} of {} batches", format_count(state.batches), format_count(num_batches));
  std::vector<method::Importance> importances;
  const model::Decoder& decoder = model.decoder();
  try {
    Progress progress("probe", method::probe_work(decoder, text, options), {.counts = "passes", .source = name});
    importances = method::probe(decoder, text, options, progress, state);
    const method::Importance& first = importances.front();
    const std::optional<method::Separation>& separation = first.separation;
    progress.finish(fmt::format("loss {:.4f}, {} tokens{}", first.baseline_loss, format_count(first.tokens),
                                !separation           ? ""
                                : separation->reached ? ", separated"
                                                      : ", not separated"));
  } catch (const InterruptedError& error) {
    if (method::is_from_texts_alone(options))
      throw InterruptedError(
          fmt::format("{}; nothing of the probe is saved; the same command starts it again", error.what()),
          error.exit_code());
    const bool is_kept = state.batches > 0 && cache.keep(key_of_samples, {{"batches", state.batches},
                                                                          {"samples", method::to_json(state.samples)}});
    throw interrupted(error,
                      fmt::format("saved {} of {} batches of the probe", is_kept ? state.batches : 0, num_batches));
  }
  for (method::Importance& importance : importances) importance.model = model.identity();
  cache.keep(key, list_of(importances));
  cache.remove(key_of_samples);
  return importances;
}

Json measure_copies(MeasuredModel& model, const method::Expansion& expansion, const std::string& name,
                    const std::vector<method::ProbeBatch>& batches, const ResultCache& results_of_first) {
  const SharedResults cache(results_of_first);
  Json key = key_of("copies", model);
  key["text"] = method::fingerprint(batches);
  if (std::optional<Json> found = cache.find(key)) {
    tell_kept("copies", name, cache);
    return *found;
  }
  const model::Decoder& decoder = model.decoder();
  try {
    Progress progress("copies", std::ssize(batches), {.counts = "batches", .source = name});
    const method::CopiesOnText report = method::inspect_copies(decoder, expansion, batches, progress);
    progress.finish(fmt::format("loss {:.4f}", report.loss));
    cache.keep(key, method::to_json(report));
    return method::to_json(report);
  } catch (const InterruptedError& error) {
    throw interrupted(error, fmt::format("saved the measurements on the texts before {}", name));
  }
}

method::Dial measure_dial(MeasuredModel& model, const method::Expansion& expansion,
                          const std::vector<method::ProbeBatch>& general, const std::vector<method::ProbeBatch>& domain,
                          const method::DialOptions& options, const ResultCache& results_of_first) {
  const SharedResults cache(results_of_first);
  Json key = key_of("dial", model);
  key["text"] = {method::fingerprint(general), method::fingerprint(domain)};
  std::vector<method::DialPoint> known;
  if (const std::optional<Json> found = cache.find(key)) known = method::points_from_json(*found);
  if (!known.empty()) tell_kept("dial", fmt::format("{} points", known.size()), cache);
  model::Decoder& decoder = model.decoder();
  try {
    Progress progress(
        "dial",
        method::most_measurements(options, expansion) * static_cast<std::int64_t>(general.size() + domain.size()),
        {.counts = "passes", .source = "general+domain"});
    const method::Dial dial = method::measure_dial(decoder, expansion, general, domain, options, progress, known);
    progress.finish(
        fmt::format("general loss {:.4f}, domain loss {:.4f}", dial.chosen.general_loss, dial.chosen.domain_loss));
    cache.keep(key, method::to_json(known));
    return dial;
  } catch (const InterruptedError& error) {
    const bool is_kept = !known.empty() && cache.keep(key, method::to_json(known));
    throw interrupted(error, fmt::format("saved {} points of the dial", is_kept ? known.size() : 0));
  }
}

}  // namespace adept::run
