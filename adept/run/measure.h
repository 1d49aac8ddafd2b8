// Measurements of a model on text, with progress lines. Earlier results come from the result cache, which also stores
// the progress of interrupted measurements. Every process of the job calls the same functions with the same arguments:
// they divide the work, and each gets the results; the cache is that of the first one.
//
// InterruptedErrors from here say what was saved.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/error.h"
#include "adept/eval/evaluate.h"
#include "adept/io/model_identity.h"
#include "adept/method/beyond/copies.h"
#include "adept/method/beyond/dial.h"
#include "adept/method/beyond/probe.h"
#include "adept/model/decoder.h"
#include "adept/run/result_cache.h"
#include "adept/train/memory.h"

namespace adept::run {

/// A model on disk, loaded on demand (by all processes of the job together).
class MeasuredModel {
 public:
  /// `divides_layers`: each process of the job holds a part of every layer (train/sharded_layers.h); they must then
  /// measure the same things in the same order.
  MeasuredModel(std::filesystem::path dir, io::ModelIdentity identity, const config::Compute& compute,
                bool divides_layers = false)
      : dir_(std::move(dir)), identity_(std::move(identity)), compute_(compute), divides_layers_(divides_layers) {}

  const io::ModelIdentity& identity() const { return identity_; }
  const config::Compute& compute() const { return compute_; }
  at::Device device() const;
  model::Decoder& decoder();
  /// Of this process, since the model was loaded: its weights, and the peak. Zero before.
  train::MemoryUse memory() const;

 private:
  std::filesystem::path dir_;
  io::ModelIdentity identity_;
  config::Compute compute_;
  bool divides_layers_;
  std::optional<model::Decoder> decoder_;
  std::optional<train::StepBytes> bytes_;  // of the measurements
};

/// eval::evaluate of each set. Values may be infinite or NaN.
eval::Results evaluate_sets(MeasuredModel& model, const std::vector<eval::EvalSet>& sets, std::int64_t batch_size,
                            const ResultCache& cache);

/// method::probe, the scores stamped with the model. `name` is the text's in the progress line.
std::vector<method::Importance> probe_layers(MeasuredModel& model, const std::string& name,
                                             const method::ProbeText& text, const method::ProbeOptions& options,
                                             const ResultCache& cache);

/// method::inspect_copies as JSON, of the text `name`.
Json measure_copies(MeasuredModel& model, const method::Expansion& expansion, const std::string& name,
                    const std::vector<method::ProbeBatch>& batches, const ResultCache& cache);

/// method::measure_dial; reuses points of other calls on the same texts.
method::Dial measure_dial(MeasuredModel& model, const method::Expansion& expansion,
                          const std::vector<method::ProbeBatch>& general, const std::vector<method::ProbeBatch>& domain,
                          const method::DialOptions& options, const ResultCache& cache);

/// The same interruption, with a description of the saved work, from which the same command continues.
InterruptedError interrupted(const InterruptedError& error, const std::string& kept);

}  // namespace adept::run
