// A run by the processes of a job (dist/process_group.h): the first one prepares, all train together, the first
// finishes.
#pragma once

#include <filesystem>

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"
#include "adept/run/text.h"
#include "adept/train/trainer.h"

namespace adept::run {

/// Joins the job in which this process was started, if it is one of several. Call before anything else uses the
/// processor. Throws like dist::ProcessGroup.
void join_job(const config::RunConfig& config);

/// Throws dist::DisagreementError on every process if they have different programs or configurations.
void require_same_run(const config::RunConfig& config);

/// What the first process tells the others when it comes to the training.
struct TrainingCall {
  bool trains = false;            ///< false: the model is already trained
  std::filesystem::path model{};  ///< to train
};
/// Every process calls it; only the first one's `call` counts. The others wait for it, as long as it works.
TrainingCall share(const TrainingCall& call);

/// What a run trains with.
struct Training {
  const config::RunConfig& config;
  config::Purpose purpose;
  bool resumes;                      ///< continues an existing training; otherwise it is an error
  data::OtherMixture other_mixture;  ///< than that of the training to continue
  const TextModel& model;
  const Datasets& datasets;
};

/// At the start of the data, or at the position where the run that trained the model stopped.
data::TrainLoader train_loader(const Training& training);

/// Trains the model in `model_dir` and exports it. Every process of the job calls it.
train::TrainSummary train_model(const Training& training, const std::filesystem::path& model_dir);

/// A run on the other processes: they wait, train and wait again until the run is complete.
void help_with_run(const config::RunConfig& config, config::Purpose purpose, bool resumes, data::OtherMixture other);

}  // namespace adept::run
