#include "adept/run/job.h"

#include <optional>
#include <string>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/version_info.h"
#include "adept/data/mixture_table.h"
#include "adept/dist/process_group.h"
#include "adept/io/model_identity.h"
#include "adept/io/weight_files.h"
#include "adept/kernels/instruction_set.h"
#include "adept/nn/allocator.h"
#include "adept/run/preflight.h"
#include "adept/run/result_cache.h"
#include "adept/run/run_directory.h"
#include "adept/run/run_measurements.h"
#include "adept/run/same_texts.h"
#include "adept/run/training_text.h"
#include "adept/train/compute.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

train::TrainerInputs trainer_inputs(const Training& training, const fs::path& model_dir) {
  const config::RunConfig& config = training.config;
  const Datasets& datasets = training.datasets;
  train::TrainerInputs inputs{.config = config,
                              .model_dir = model_dir,
                              .run_dir = config.output_dir,
                              .loader = train_loader(training),
                              .probe = {},
                              .eval = {}};
  log_table(data::format_mixture(inputs.loader));
  if (config.unit_lr.uses_importance()) {
    const auto probe = probe_sequences(datasets.general, config.seq_len, config.unit_lr.probe_tokens);
    tell_samples("importance", probe);
    inputs.probe = to_batches(probe, config.probe.batch_size, train::to_device(config.compute.device),
                              general_weights(config.data));
  }
  for (const data::TokenDataset& dataset : datasets.eval)
    inputs.eval.push_back({dataset.name(), eval_sequences(config, training.model, dataset)});
  inputs.model = io::model_identity(io::WeightFiles::open(model_dir));
  inputs.other_mixture = training.other_mixture;
  return inputs;
}

}  // namespace

void join_job(const config::RunConfig& config) {
  join_job(config.dist, config.compute.device, "train");
  if (config.dist.shard_base && dist::world().size() == 1)
    throw ConfigError(
        "dist.shard_base: found true in a run of one process; expected several, which share the frozen layers "
        "(--nproc, torchrun, srun), or false.");
}

void join_job(const dist::DistOptions& options, config::Device device, const char* work) {
  dist::join(dist::read_launch(), {.timeout = static_cast<double>(options.timeout),
                                   .uses_gpu = device == config::Device::kCuda,
                                   .ends_process = true});
  const dist::ProcessGroup& group = dist::world();
  if (group.size() > 1)
    log_info("{} processes {} together, {} on this machine", group.size(), work, group.launch().local_size);
}

dist::HeldByName held_by_command(const std::string& command) {
  return {{"program version", {fmt::format("{} (torch {})", kCommit, kTorchVersion)}}, {"command", {command}}};
}

void require_same_run(const config::RunConfig& config, const std::string& command) {
  dist::world().agree([&] {
    dist::HeldByName held = held_by_command(command);
    if (config.dist.deterministic)
      held["instruction set (dist.deterministic)"] = {std::string(kernels::to_string(kernels::instruction_set()))};
    const Json keys = config::to_json(config).flatten();
    for (const auto& [key, value] : keys.items())
      if (key != "/threads") held["configuration: " + key.substr(1)] = {value.dump()};
    return held;
  });
}

Call share(const Call& call) {
  dist::ProcessGroup& group = dist::world();
  group.on_first([] {});
  const Json json =
      Json::parse(group.broadcast(Json{{"task", static_cast<int>(call.task)}, {"model", call.model.string()}}.dump()));
  return {.task = static_cast<Task>(json.at("task").get<int>()), .model = json.at("model").get<std::string>()};
}

data::TrainLoader train_loader(const Training& training) {
  data::TrainLoader loader = make_train_loader(training.model, training.config, training.datasets);
  if (!training.config.train.continue_data) return loader;
  const fs::path& model_dir = training.model.dir;
  loader.load_state(data_position(model_dir), (model_dir / method::kTrainingRecord).string(), training.other_mixture);
  return loader;
}

train::TrainSummary train_model(const Training& training, const fs::path& model_dir) {
  train::Trainer trainer(trainer_inputs(training, model_dir));
  const train::TrainSummary summary = [&] {
    try {
      return trainer.run(training.resumes);
    } catch (const InterruptedError& error) {
      const char* option = training.purpose == config::Purpose::kTrain ? " with --resume" : "";
      throw InterruptedError(fmt::format("{}; the same command{} continues from there", error.what(), option),
                             error.exit_code());
    }
  }();
  trainer.export_model(fs::path(training.config.output_dir) / files::kModel);
  return summary;
}

namespace {

// Of the other processes.
class Helper {
 public:
  Helper(const config::RunConfig& config, config::Purpose purpose, bool resumes, data::OtherMixture other)
      : config_(config), purpose_(purpose), resumes_(resumes), other_mixture_(other) {}

  void work() {
    for (Call call = share({}); call.task != Task::kEnd; call = share({})) {
      perform(call);
      nn::release_cached_memory();
    }
  }

 private:
  void perform(const Call& call) {
    switch (call.task) {
      case Task::kTokenize:
        model_ = load_text_model(config_.model);
        datasets_ = tokenize_all(*model_, config_.data, dir_ / "data");
        require_same_texts(datasets_);
        break;
      case Task::kCompare:
        check_training_text(*model_, config_, datasets_, cache_);
        break;
      case Task::kEvaluate:
        evaluate_model(measuring(), call.model);
        break;
      case Task::kProbe:
        probe_model(measuring());
        break;
      case Task::kInspectCopies:
        inspect_copies_of(measuring(), call.model);
        break;
      case Task::kTrain:
        train(call.model);
        break;
      case Task::kEnd:
        break;
    }
  }

  void train(const fs::path& model_dir) {
    train_model({.config = config_,
                 .purpose = purpose_,
                 .resumes = resumes_,
                 .other_mixture = other_mixture_,
                 .model = *model_,
                 .datasets = datasets_},
                model_dir);
  }

  Measuring measuring() const {
    return {.config = config_, .purpose = purpose_, .model = *model_, .datasets = datasets_, .cache = cache_};
  }

  const config::RunConfig& config_;
  config::Purpose purpose_;
  bool resumes_;
  data::OtherMixture other_mixture_;
  fs::path dir_ = config_.output_dir;
  ResultCache cache_ = ResultCache::open(dir_ / files::kStages / "results");
  std::optional<TextModel> model_;  // and the datasets: from the first task on
  Datasets datasets_;
};

}  // namespace

void help_with_run(const config::RunConfig& config, config::Purpose purpose, bool resumes, data::OtherMixture other) {
  Helper(config, purpose, resumes, other).work();
}

}  // namespace adept::run
