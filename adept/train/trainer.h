// The training loop: steps, unit importance, evaluation, records, checkpoints.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/data/prefetcher.h"
#include "adept/data/train_loader.h"
#include "adept/dist/process_group.h"
#include "adept/eval/evaluate.h"
#include "adept/io/model_identity.h"
#include "adept/io/weight_files.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"
#include "adept/train/divergence.h"
#include "adept/train/kept_activations.h"
#include "adept/train/learning_rates.h"
#include "adept/train/plan.h"
#include "adept/train/run_state.h"
#include "adept/train/step_account.h"
#include "adept/train/train_summary.h"
#include "adept/train/trainable.h"
#include "adept/train/training_log.h"
#include "adept/train/verification.h"

namespace adept::train {

/// Inputs of a trainer. `probe` is general text for unit importance; it may be empty with the policy `uniform`.
struct TrainerInputs {
  config::RunConfig config;
  std::filesystem::path model_dir;  ///< an expanded model for the methods that train copies
  std::filesystem::path run_dir;    ///< exists; gets checkpoints and records
  data::TrainLoader loader;         ///< at the first step's data
  std::vector<method::ProbeBatch> probe;
  std::vector<eval::EvalSet> eval;
  std::optional<io::ModelIdentity> model{};  ///< of model_dir, if known; computing it reads all weights
  data::OtherMixture other_mixture = data::OtherMixture::kRefused;  ///< than that of the checkpoint to resume from
};

/// Trains a model with the configuration's method, together with the other processes of the job: each makes one, with
/// the same inputs, and calls the same functions. Only the first one writes into run_dir.
class Trainer {
 public:
  /// Loads the model. Throws DataError or ConfigError for problems with the model or the data.
  explicit Trainer(TrainerInputs inputs);
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains from the start or, with `resume`, from the newest intact checkpoint if there is one, possibly of a run with
  /// another planned length. Without `resume`, checkpoints in run_dir are a ConfigError. Ends with a checkpoint of the
  /// last step.
  ///
  /// Throws NonFiniteError after max_nonfinite_steps in a row and for a diverged training, which is not saved;
  /// CorruptionError for a verified step that has other bits each time and for frozen weights that changed in memory,
  /// and dist::DisagreementError for processes that differ in what they train, which is not saved either;
  /// InterruptedError after SIGINT or SIGTERM, with the state saved.
  TrainSummary run(bool resume);

  /// Exports the current model as a Hugging Face directory: see export_trained. The first process does it.
  void export_model(const std::filesystem::path& out_dir) const;

  const model::Decoder& decoder() const { return decoder_; }

 private:
  model::Decoder load_model() const;
  RunIdentity identify() const;
  void plan();
  void loop();
  dist::HeldByName replicated() const;
  void require_agreement() const;
  void update_unit_rates();
  StepResult take_step();
  bool evaluates_now() const;
  void evaluate_if_due();
  void evaluate();
  void require_finite() const;
  void save();
  void write_checkpoint();
  double epoch() const { return state_.loader.epochs(0); }
  TrainSummary summarize() const;

  // What is fixed.
  TrainerInputs inputs_;
  dist::ProcessGroup& group_ = dist::world();
  std::optional<method::Expansion> expansion_;
  io::WeightFiles files_;
  model::Decoder decoder_;
  Trainable trainable_;
  FrozenTensors frozen_;
  TrainingStart start_;

  // State in checkpoints.
  RunState state_;

  // State of this session.
  LearningRates rates_;
  TrainingLength length_;
  StepAccount account_;
  DivergenceCheck divergence_;
  std::optional<data::Prefetcher> prefetcher_;       // set at the start of run()
  std::optional<TrainingLog> log_;                   // likewise
  std::optional<KeptActivations> kept_activations_;  // likewise
  std::optional<FrozenBits> frozen_bits_;            // unless all steps are done
  std::int64_t num_verified_ = 0;                    // steps
};

}  // namespace adept::train
