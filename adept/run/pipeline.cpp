#include "adept/run/pipeline.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/dist/process_group.h"
#include "adept/eval/evaluate.h"
#include "adept/io/atomic_file.h"
#include "adept/io/record.h"
#include "adept/method/expansion.h"
#include "adept/run/expansion_plan.h"
#include "adept/run/job.h"
#include "adept/run/model_context.h"
#include "adept/run/preflight.h"
#include "adept/run/report.h"
#include "adept/run/run_directory.h"
#include "adept/run/run_measurements.h"
#include "adept/run/run_record.h"
#include "adept/run/same_texts.h"
#include "adept/run/stage.h"
#include "adept/run/text.h"
#include "adept/run/token_cache.h"
#include "adept/run/training_text.h"
#include "adept/train/export_trained.h"
#include "adept/train/methods.h"
#include "adept/train/plan.h"
#include "adept/train/trainer.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

Json fingerprints(const std::vector<data::TokenDataset>& datasets) {
  Json json = Json::object();
  for (const data::TokenDataset& dataset : datasets) json[dataset.name()] = dataset.fingerprint();
  return json;
}

// For others to read.
void write_result(const fs::path& path, const Json& json) { io::write_file_atomically(path, json.dump(2) + "\n"); }

// Resolves the dtype auto once: as an earlier call in the directory did, independent of this machine.
config::RunConfig decided(config::RunConfig config) {
  if (config.compute.dtype == config::DTypeChoice::kAuto) {
    if (const auto recorded = recorded_dtype(config.output_dir)) {
      config.compute.dtype = *recorded;
      log_info("dtype: {} (auto: as in {}/config.yaml, with which the run started)", config::to_string(*recorded),
               config.output_dir);
    }
  }
  init_compute(config.compute);
  return config;
}

// Shared state of the stages of a run.
class Run {
 public:
  // `resumes`: continues an existing training; otherwise it is an error.
  Run(const config::RunConfig& config, config::Purpose purpose, bool resumes, data::OtherMixture other)
      : config_(config),
        purpose_(purpose),
        resumes_(resumes),
        other_mixture_(other),
        expands_(purpose == config::Purpose::kRun && config.expands()),
        model_(check_files(config, purpose)),
        directory_(config.output_dir),
        dir_(directory_.path()),
        stages_(dir_),
        cache_(ResultCache::open(dir_ / files::kStages / "results")) {
    for (const char* folder : {"", "data", files::kStages}) io::remove_temporaries(dir_ / folder);
  }

  // Training starts from the model of the configuration.
  void use_model() { trained_from_ = model_.dir; }

  // Everything before the model changes.
  void begin() {
    tokenize();
    compare();
    check_inputs();
    write_run_record(dir_, config_);
    write_result(dir_ / files::kContamination, contamination_);
    discard_other_stages();
    baseline();
  }

  // Each token file records its inputs, so this stage checks the text every time.
  void tokenize() {
    stages_.always("tokenize", [&] {
      try {
        prepare_text();
      } catch (const InterruptedError& error) {
        throw interrupted(error, fmt::format("finished sources, and finished shards, are kept in {}",
                                             token_folder(dir_ / "data").string()));
      }
    });
  }

  // What the training text repeats, and what it shares with held-out text.
  void compare() {
    stages_.always("compare", [&] {
      share({.task = Task::kCompare});
      contamination_ = check_training_text(model_, config_, datasets_, cache_);
    });
  }

  // Problems of later stages stop the run here, before the first stage (which may take hours) and before anything of an
  // earlier run in this directory changes.
  void check_inputs() {
    check_text(config_, purpose_, model_, datasets_);
    train_loader(training());
    check_checkpoints();
  }

  // Outputs of stages that only an earlier run in this directory had.
  void discard_other_stages() {
    if (!probes()) stages_.discard("probe", {files::kImportance});
    if (!expands_ && !is_in(model_.dir, dir_ / files::kExpanded)) stages_.discard("expand", {files::kExpanded});
    if (!inspects_copies()) stages_.discard("copies", {files::kCopies});
  }

  void baseline() {
    stages_.run("baseline", eval_inputs(model_.dir), {files::kBaseline}, [&] {
      share({.task = Task::kEvaluate, .model = model_.dir});
      const auto results = recorded(evaluate_model(measuring(), model_.dir));
      for (const auto& [name, result] : results) eval::require_finite(name, result);
      io::write_record(dir_ / files::kBaseline, eval::results_to_json(results));
    });
  }

  void probe() {
    stages_.run("probe", probe_inputs(), {files::kImportance}, [&] {
      share({.task = Task::kProbe});
      io::write_record(dir_ / files::kImportance, recorded(probe_model(measuring())));
    });
  }

  void expand() {
    const std::optional<method::Importance> importance = importance_if_probed();
    const std::vector<int> after = choose_layers(config_.expand, model_.config, config_.seq_len, importance);
    trained_from_ = dir_ / files::kExpanded;
    const bool used_up = !config_.keep_expanded && stages_.is_done("train", train_inputs());
    if (!used_up || !stages_.keep_without_outputs("expand", expand_inputs()))
      stages_.run("expand", expand_inputs(), {files::kExpanded}, [&] {
        method::expand_model(model_.dir, trained_from_, after, importance, io::OnExisting::kReplace);
      });
    log_table("expanded   " + describe_step_cost(model_.config, config_.seq_len, after, config_.expand, importance));
  }

  void train() {
    stages_.run("train", train_inputs(), {files::kModel, files::kTrainResults}, [&] {
      share({.task = Task::kTrain, .model = trained_from_});
      const train::TrainSummary summary = train_model(training(), trained_from_);
      io::write_record(dir_ / files::kTrainResults, train::to_json(summary));
    });
  }

  // The result contains everything except the initial values of the copies, which can be recreated from the same
  // layers.
  void remove_expanded() const {
    if (!config_.keep_expanded) fs::remove_all(dir_ / files::kExpanded);
  }

  void evaluate_result() {
    stages_.run("eval", eval_inputs(dir_ / files::kModel), {files::kEvaluation}, [&] {
      share({.task = Task::kEvaluate, .model = dir_ / files::kModel});
      const auto results = recorded(evaluate_model(measuring(), dir_ / files::kModel));
      for (const auto& [name, result] : results)
        if (!std::isfinite(result.headline().value))
          throw NonFiniteError(
              fmt::format("{}: the {} of the trained model is not finite: the training diverged (train.learning_rate "
                          "is {:g}). Start again in another output_dir with a lower train.learning_rate.",
                          name, result.headline().name, config_.train.learning_rate));
      io::write_record(dir_ / files::kEvaluation, eval::results_to_json(results));
    });
  }

  // The effect of each copy: the loss on each held-out set without it.
  void inspect_copies() {
    if (!inspects_copies() || datasets_.eval.empty()) return;
    stages_.run("copies", eval_inputs(dir_ / files::kModel, config::decides::kCopies), {files::kCopies}, [&] {
      share({.task = Task::kInspectCopies, .model = dir_ / files::kModel});
      write_result(dir_ / files::kCopies, recorded(inspect_copies_of(measuring(), dir_ / files::kModel)));
    });
  }

  void finish() {
    evaluate_result();
    inspect_copies();
    report();
    share({.task = Task::kEnd});
  }

  void report() {
    RunResults results{.before = {}, .after = read_results(files::kEvaluation), .training = read_training()};
    if (fs::exists(dir_ / files::kBaseline)) results.before = read_results(files::kBaseline);
    write_result(dir_ / files::kAllResults, results_json(config_, results, stages_.records()));
    fmt::print("{}\n  model         {}\n", results_table(config_, results, stages_.records()),
               (dir_ / files::kModel).string());
  }

 private:
  // The result; the memory goes into the record of the stage.
  template <typename Result>
  Result recorded(Measured<Result> measured) {
    if (measured.memory.peak > 0) stages_.set_memory(train::to_json(measured.memory));
    return std::move(measured.result);
  }

  bool probes() const { return run::probes(config_, purpose_); }
  bool probes_domain() const { return run::probes_domain(config_, purpose_); }

  // Damaged records are not an error: their stages are repeated.
  void check_checkpoints() {
    if (train::list_checkpoints(dir_).empty()) {
      if (resumes_ && purpose_ == config::Purpose::kTrain && !stages_.is_done("train", train_inputs()))
        log_warning("--resume: {} contains no checkpoint; the training starts from its beginning.", dir_.string());
      return;
    }
    if (!resumes_ && !stages_.is_done("train", train_inputs())) train::require_no_checkpoints(dir_);
    train::check_same_training(dir_, config_, expands_ ? std::nullopt : std::optional(identity(model_.dir)),
                               train_loader(training()), other_mixture_);
    std::vector<std::string> lines;
    if (probes()) lines = stages_.other_inputs("probe", probe_inputs());
    if (lines.empty() && expands_) lines = stages_.other_inputs("expand", expand_inputs());
    if (!lines.empty())
      throw ConfigError(
          "{}: contains checkpoints from different inputs:\n  {}\nRestore these inputs, or start again in another "
          "output_dir.",
          dir_.string(), fmt::join(lines, "\n  "));
    train::check_not_shorter(dir_, config_);
  }

  static io::ModelIdentity identity(const fs::path& dir) { return io::model_identity(io::WeightFiles::open(dir)); }

  Json probe_inputs() {
    Json inputs = {{"model", io::to_json(identity(model_.dir))},
                   {"general", fingerprints(datasets_.general)},
                   {"data.general", general_shares(config_.data)},
                   {"sampling", data::kSamplingRule}};
    inputs.update(config::deciding(config_, config::decides::kProbe));
    // The number of layers affects when a probe with until_separated stops.
    if (config_.probe.until_separated) {
      inputs["num_layers"] = num_copied_layers(config_.expand, model_.config);
      inputs["exclude"] = config_.expand.exclude;
    }
    if (probes_domain()) inputs["domain"] = datasets_.train.front().fingerprint();
    return inputs;
  }

  // An expanded model is identified by its inputs; it may have been removed. Unit importance is measured on a weighted
  // sample of data.general.
  Json train_inputs() {
    Json inputs = {{"model", expands_ ? expand_inputs() : io::to_json(identity(model_.dir))},
                   {"train", fingerprints(datasets_.train)},
                   {"replay", fingerprints(datasets_.replay)},
                   {"general", fingerprints(datasets_.general)},
                   {"data.general", general_shares(config_.data)},
                   {"sampling", data::kSamplingRule},
                   {"excluded", hash_of(Json(datasets_.excluded).dump())},
                   {"data.train", mixture_json(config_.data.train)},
                   {"data.replay", mixture_json(config_.data.replay)},
                   {"config", config::deciding(config_, config::decides::kTraining | config::decides::kEnd |
                                                            config::decides::kMixture)}};
    if (const int size = dist::world().size(); size > 1) inputs["processes"] = size;  // of a step's sequences
    return inputs;
  }

  // The scores are determined by the probe's inputs, not by their file.
  Json expand_inputs() {
    Json inputs = {{"model", io::to_json(identity(model_.dir))},
                   {"importance", config_.expand.needs_scores() ? probe_inputs() : Json()}};
    inputs.update(config::deciding(config_, config::decides::kExpansion));
    return inputs;
  }

  std::optional<method::Importance> importance_if_probed() const {
    const fs::path path = dir_ / files::kImportance;
    if (!config_.expand.needs_scores() || !fs::exists(path)) return std::nullopt;
    return method::read_importance(path);
  }

  void prepare_text() {
    share({.task = Task::kTokenize});
    datasets_ = tokenize_all(model_, config_.data, dir_ / "data");
    require_same_texts(datasets_);
    std::vector<data::TokenDataset> all;
    for (const auto* part : {&datasets_.train, &datasets_.replay, &datasets_.general, &datasets_.eval})
      all.insert(all.end(), part->begin(), part->end());
    print_counts(all);
    for (const data::TokenDataset& dataset : all)
      data::write_skipped(dir_ / "data" / (dataset.name() + ".skipped.jsonl"), dataset.info().skipped);
  }

  bool inspects_copies() const { return config_.expands() && config_.eval.copies_tokens > 0; }

  Json eval_inputs(const fs::path& model_dir, unsigned decided = config::decides::kEvaluation) {
    return {{"model", io::to_json(identity(model_dir))},
            {"eval", fingerprints(datasets_.eval)},
            {"config", config::deciding(config_, decided)},
            {"metrics", eval::metric_names()},
            {"sampling", data::kSamplingRule}};
  }

  Measuring measuring() const {
    return {.config = config_, .purpose = purpose_, .model = model_, .datasets = datasets_, .cache = cache_};
  }

  Training training() const {
    return {.config = config_,
            .purpose = purpose_,
            .resumes = resumes_,
            .other_mixture = other_mixture_,
            .model = model_,
            .datasets = datasets_};
  }

  eval::Results read_results(const std::string& file) const {
    return eval::results_from_json(io::read_record(dir_ / file), (dir_ / file).string());
  }

  Json read_training() const { return io::read_record(dir_ / files::kTrainResults); }

  const config::RunConfig& config_;
  config::Purpose purpose_;
  bool resumes_;
  data::OtherMixture other_mixture_;  // than that of the training to continue
  bool expands_;                      // the model is to be expanded
  TextModel model_;
  RunDirectory directory_;
  fs::path dir_;
  StageRunner stages_;
  ResultCache cache_;
  Datasets datasets_;
  Json contamination_;
  fs::path trained_from_;
};

}  // namespace

void run_pipeline(const config::RunConfig& given, data::OtherMixture other) {
  join_job(given);
  const config::RunConfig config = decided(given);
  require_same_run(config, "adept run");
  if (!dist::is_first()) return help_with_run(config, config::Purpose::kRun, /*resumes=*/true, other);
  Run run(config, config::Purpose::kRun, /*resumes=*/true, other);
  if (!config.expands()) run.use_model();
  run.begin();
  if (config.expands()) {
    if (config.expand.needs_scores()) run.probe();
    run.expand();
  }
  run.train();
  if (config.expands()) run.remove_expanded();
  run.finish();
}

void run_training(const config::RunConfig& given, bool resume, data::OtherMixture other) {
  join_job(given);
  const config::RunConfig config = decided(given);
  require_same_run(config, resume ? "adept train --resume" : "adept train");
  if (!dist::is_first()) return help_with_run(config, config::Purpose::kTrain, resume, other);
  Run run(config, config::Purpose::kTrain, resume, other);
  run.use_model();
  run.begin();
  run.train();
  run.finish();
}

}  // namespace adept::run
