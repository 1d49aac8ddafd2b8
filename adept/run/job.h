// A run by the processes of a job (dist/process_group.h): the first one decides which stages run and writes their
// files; the others wait until it calls them, and work with it.
#pragma once

#include <filesystem>

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"
#include "adept/dist/process_group.h"
#include "adept/run/text.h"
#include "adept/train/trainer.h"

namespace adept::run {

/// Joins the job in which this process was started, if it is one of several. Call before anything else uses the
/// processor. Throws like dist::ProcessGroup.
void join_job(const config::RunConfig& config);

/// The same for a command without a configuration. `work`: what the processes do together, for the log.
void join_job(const dist::DistOptions& options, config::Device device, const char* work);

/// Throws dist::DisagreementError on every process if they have different programs, commands or configurations.
void require_same_run(const config::RunConfig& config, const std::string& command);
/// What the processes of any command must have alike.
dist::HeldByName held_by_command(const std::string& command);

/// What all processes do together.
enum class Task { kTokenize, kCompare, kEvaluate, kProbe, kTrain, kInspectCopies, kEnd };

/// What the first process tells the others to do.
struct Call {
  Task task = Task::kEnd;
  std::filesystem::path model{};  ///< to train or to measure
};
/// Every process calls it; only the first one's `call` counts. The others wait for it, as long as it works.
Call share(const Call& call);

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

/// A run on the other processes: what the first one calls for, until the run is complete.
void help_with_run(const config::RunConfig& config, config::Purpose purpose, bool resumes, data::OtherMixture other);

}  // namespace adept::run
