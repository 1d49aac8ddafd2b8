// The training loop: steps, unit importance, evaluation, records, checkpoints.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/data/sequences.h"
#include "adept/data/train_loader.h"
#include "adept/eval/evaluate.h"
#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/model/activation_cache.h"
#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"
#include "adept/optim/schedule.h"
#include "adept/train/checkpoint.h"
#include "adept/train/kept_activations.h"
#include "adept/train/matmul_rate.h"
#include "adept/train/memory.h"
#include "adept/train/metric_sinks.h"
#include "adept/train/plan.h"
#include "adept/train/step.h"
#include "adept/train/step_meter.h"
#include "adept/train/trainable.h"
#include "adept/train/trainer_log.h"

namespace adept::train {

/// What a trainer works on. `probe` is general text for unit importance; it may be empty for the policy `uniform`.
struct TrainerInputs {
  config::RunConfig config;
  std::filesystem::path model_dir;  ///< an expanded model for the methods that train copies
  std::filesystem::path run_dir;    ///< exists; gets checkpoints and records
  data::TrainLoader loader;
  std::vector<method::ProbeBatch> probe;
  std::vector<eval::EvalSet> eval;
  std::optional<io::ModelIdentity> model{};  ///< of model_dir, where it is known: finding it reads all of the weights
};

/// What came of a training.
struct TrainSummary {
  std::int64_t steps = 0;
  std::int64_t total_tokens = 0;  ///< positions processed
  std::int64_t trained_parameters = 0;
  std::int64_t all_parameters = 0;
  std::int64_t nonfinite_steps = 0;  ///< skipped updates
  double train_loss = 0;             ///< mean over the predicted tokens of the whole run, as transformers reports it
  double final_loss = 0;             ///< of the last log line
  double train_seconds = 0;          ///< spent in steps
  double tokens_per_second = 0;
  double speed_of_light = 0;  ///< what the unavoidable matrix products would take, as a share of train_seconds
  MemoryUse memory;           ///< of this session's steps
  model::ActivationCacheStats activation_cache;  ///< of this session
};
Json to_json(const TrainSummary& summary);

/// Trains a model by the configuration's method.
class Trainer {
 public:
  /// Loads the model. Throws DataError and ConfigError for what is wrong with it or the data.
  explicit Trainer(TrainerInputs inputs);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains from the start, or, with `resume`, from the newest whole checkpoint if there is one, which may be of a run
  /// that was to be shorter or longer. Without `resume`, checkpoints in run_dir are a ConfigError. Ends with a
  /// checkpoint of the last step.
  ///
  /// Throws NonFiniteError after max_nonfinite_steps in a row and for a training that diverged, of which nothing is
  /// saved; and InterruptedError after SIGINT or SIGTERM, when the state is saved.
  TrainSummary run(bool resume);

  /// Writes the model as it is now as a Hugging Face directory: see export_trained.
  void export_model(const std::filesystem::path& out_dir) const;

  const model::Decoder& decoder() const { return decoder_; }

 private:
  void loop();
  void restore(bool resume);
  void plan();
  void open_records();
  void update_unit_rates();
  StepResult take_step();
  void measure_speed(std::span<const data::Sequence> sequences, std::span<const model::Batch> micro_batches,
                     std::int64_t read, double seconds);
  void measure_memory(const StepResult& result, std::int64_t num_micro_batches, std::int64_t step_bytes);
  void log_step(const StepResult& result);
  void log(const Json& values);
  bool evaluates_now() const;
  void evaluate_if_due();
  void require_finite() const;
  void save();
  void check_nonfinite(const StepResult& result);
  optim::ParameterRates learning_rates() const;
  TrainSummary summarize() const;

  TrainerInputs inputs_;
  std::optional<method::Expansion> expansion_;
  io::WeightFiles files_;
  model::Decoder decoder_;
  Trainable trainable_;
  FrozenTensors frozen_;
  std::vector<method::Unit> units_;  // of the copies, or every trained parameter
  optim::AdamW optimizer_;
  TrainingStart start_;
  TrainingLength length_;
  optim::Schedule schedule_;
  RunIdentity identity_;
  TrainerState state_;
  std::int64_t saved_step_ = -1;
  std::set<std::filesystem::path> known_whole_;  // checkpoints
  std::optional<model::Batch> last_finite_batch_;
  std::vector<std::unique_ptr<MetricSink>> sinks_;  // of the lines of the log
  std::unique_ptr<MetricSink> importance_log_;
  std::optional<ConsoleSink> console_;  // of every step
  StepMeter meter_;
  bool rate_was_checked_ = false;  // measured again, as a step came close to it
  MemoryUse memory_;
  std::optional<KeptActivations> kept_activations_;  // from the beginning of run() on
};

}  // namespace adept::train
