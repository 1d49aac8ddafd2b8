#include "adept/run/preflight.h"

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/eval/evaluate.h"
#include "adept/io/hub.h"
#include "adept/io/record.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"
#include "adept/method/selection.h"
#include "adept/model/load.h"
#include "adept/run/expansion_plan.h"
#include "adept/run/run_directory.h"
#include "adept/train/export_trained.h"
#include "adept/train/methods.h"
#include "adept/train/metric_sinks.h"
#include "adept/train/plan.h"
#include "adept/train/trainer_log.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

// Collects the errors of several checks.
class Problems {
 public:
  /// Returns whether `check` throws no ConfigError or DataError; otherwise keeps the message, prefixed with `place`.
  template <typename Check>
  bool passes(const Check& check, const std::string& place = "") {
    try {
      check();
      return true;
    } catch (const ConfigError& error) {
      is_of_config_ = true;
      add(place + error.what());
    } catch (const DataError& error) {
      add(place + error.what());
    }
    return false;
  }

  void throw_if_any() const {
    if (messages_.empty()) return;
    std::string all;
    for (const std::string& message : messages_) all += (all.empty() ? "" : "\n") + message;
    if (is_of_config_) throw ConfigError(all);
    throw DataError(all);
  }

 private:
  void add(const std::string& message) {
    if (std::find(messages_.begin(), messages_.end(), message) == messages_.end()) messages_.push_back(message);
  }

  std::vector<std::string> messages_;
  bool is_of_config_ = false;
};

// Protects the model that the run starts from, and files that no run wrote.
void check_overwritten(const fs::path& dir, const fs::path& model, bool expands) {
  std::map<fs::path, fs::path> written = {
      {dir / files::kModel, dir / files::kStages / "train.json"}};  // with its stage's record
  if (expands) written.emplace(dir / files::kExpanded, dir / files::kStages / "expand.json");
  if (fs::weakly_canonical(model) == fs::weakly_canonical(dir) ||
      std::any_of(written.begin(), written.end(), [&](const auto& folder) { return is_in(model, folder.first); }))
    throw ConfigError("output_dir: found {}; the model {} would be overwritten. Choose another directory.",
                      dir.string(), model.string());
  for (const auto& [folder, record] : written) {
    const bool has_manifest =
        fs::exists(folder / method::kExpansionManifest) || fs::exists(folder / method::kTrainingRecord);
    const bool is_ours = fs::exists(record) || (fs::exists(record.parent_path()) && has_manifest);
    if (fs::exists(folder) && !(fs::is_directory(folder) && fs::is_empty(folder)) && !is_ours)
      throw ConfigError("output_dir: {} exists but is not the result of a run in {}. Choose another directory.",
                        folder.string(), dir.string());
  }
}

// In a folder without a run, existing files belong to the user.
void check_no_foreign_files(const fs::path& dir) {
  if (fs::exists(dir / files::kVersions)) return;
  std::vector<const char*> names(std::begin(files::kAll), std::end(files::kAll));
  names.insert(names.end(), {train::kTrainerLog, train::kImportanceLog});
  for (const char* name : names)
    if (is_present(dir / name))
      throw ConfigError(
          "output_dir: {} exists but is not the result of a run, and would be overwritten. Choose another directory.",
          (dir / name).string());
}

// Checks the existing part of the path; creating it may still fail, for example on a full disk.
void check_can_be_made(const fs::path& dir) {
  std::error_code error;
  fs::path place = fs::absolute(dir);
  while (!fs::exists(place, error) && !error && place.has_relative_path()) place = place.parent_path();
  if (!error && !fs::is_directory(place, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (!error && ::access(place.c_str(), W_OK | X_OK) != 0) error = std::error_code(errno, std::generic_category());
  if (error)
    throw DataError("output_dir: {} cannot be {}: {}. Choose another directory.", dir.string(),
                    fs::absolute(dir) == place ? "written" : "created", error.message());
}

// Logs next to the text would be read as text by the next run.
template <typename List>
void check_paths(const char* part, const List& sources, const fs::path& output_dir, Problems& problems) {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const data::TextSource& source = sources[i];
    problems.passes(
        [&] {
          for (const std::string& warning : data::find_files(source).warnings) log_warning("{}", warning);
        },
        fmt::format("data.{}.{}: ", part, i));
    problems.passes(
        [&] { data::check_not_read(source, output_dir, "output_dir", {train::kTrainerLog, train::kImportanceLog}); });
  }
}

bool needs_general_text(const config::RunConfig& config, config::Purpose purpose) {
  return probes(config, purpose) || config.unit_lr.uses_importance();
}

void check_length(const config::RunConfig& config, data::TrainLoader loader, Problems& problems) {
  train::TrainingLength length;
  const auto find = [&] { length = train::training_length(config.train, loader, train::start_of(loader), 0); };
  if (!problems.passes(find, config.train.max_steps ? "" : "train.num_train_epochs: ")) return;
  for (const config::LengthProblem& problem : config::length_problems(config.train, length.steps))
    problems.passes([&] { throw ConfigError("{}: {}", problem.keys.front(), problem.text); });
  loader.plan(0, length.sequences);
  std::int64_t per_epoch = 0;
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) {
    per_epoch += loader.sequences_per_epoch(s);
    if (const double amount = loader.expected(s, length.sequences); amount < 1)
      log_warning("data.train: the share of source \"{}\" is {:.2g} % of {} sequences, which is less than one sequence",
                  loader.source_name(s), 100 * amount / static_cast<double>(length.sequences), length.sequences);
  }
  const std::int64_t per_step = train::sequences_per_step(config.train);
  if (per_step > per_epoch)
    log_warning("train.batch_size * train.grad_accum: a step takes {} sequences, but the training text has only {}",
                per_step, per_epoch);
}

}  // namespace

Json data_position(const fs::path& model_dir) {
  const fs::path path = model_dir / method::kTrainingRecord;
  const Json record = fs::exists(path) ? io::read_record(path, io::NoChecksum::kAccepted) : Json::object();
  if (!record.contains(train::kDataPosition))
    throw ConfigError(
        "train.continue_data: {} has no record of its position in the training data ({}); expected a model trained by "
        "adept, or train.continue_data: false.",
        model_dir.string(), method::kTrainingRecord);
  return record[train::kDataPosition];
}

bool probes(const config::RunConfig& config, config::Purpose purpose) {
  return purpose == config::Purpose::kRun && config.expands() && config.expand.needs_scores();
}

std::string probe_method(const config::RunConfig& config) {
  const std::string strategy = config.expand.strategy.value_or(method::kLowestLayers);
  const std::string_view required = method::selection_strategy(strategy).importance_method;
  return required.empty() ? config.probe.method : std::string(required);
}

bool probes_domain(const config::RunConfig& config, config::Purpose purpose) {
  return probes(config, purpose) && method::importance_method(probe_method(config)).needs_domain;
}

data::SequenceSet eval_sequences(const config::RunConfig& config, const TextModel& model,
                                 const data::TokenDataset& dataset) {
  return scoring_sequences(model, dataset, config.eval, config.seq_len, config.data.document_mask);
}

TextModel check_files(const config::RunConfig& config, config::Purpose purpose) {
  const bool expands = purpose == config::Purpose::kRun && config.expands();
  Problems problems;
  fs::path model_dir;
  std::optional<TextModel> model;
  if (problems.passes([&] { model_dir = io::resolve_model(config.model); }, "model: ")) {
    problems.passes([&] { check_overwritten(config.output_dir, model_dir, expands); });
    if (config.train.continue_data) problems.passes([&] { data_position(model_dir); });
    if (problems.passes([&] { model = load_text_model(config.model); })) {
      problems.passes([&] { model->eos(); });  // which packing needs
      problems.passes([&] { model::check_weights(model->config, model::open_weights(model->config, model_dir)); });
      if (expands) problems.passes([&] { check_expansion(config.expand, model->config, model_dir.string()); });
      if (config.expands() && !expands) problems.passes([&] { method::read_expansion(model_dir); });
      problems.passes([&] { train::check_method(config, model->config, model_dir); });
    }
  }
  check_paths("train", config.data.train, config.output_dir, problems);
  if (!config.data.replays_general) check_paths("replay", config.data.replay, config.output_dir, problems);
  check_paths("general", config.data.general, config.output_dir, problems);
  check_paths("eval", config.data.eval, config.output_dir, problems);
  problems.passes([&] { train::check_metric_sinks(config.train.report_to); });
  problems.passes([&] { check_no_foreign_files(config.output_dir); });
  problems.passes([&] { check_can_be_made(config.output_dir); });
  problems.throw_if_any();
  warn_of_long_sequences(*model, config.seq_len);
  if (!model->config.dropout.empty())
    log_warning("{}/config.json: {}: ignored, because adept trains without dropout", model->dir.string(),
                fmt::join(model->config.dropout, ", "));
  warn_of_shared_files(config);
  return *std::move(model);
}

void check_text(const config::RunConfig& config, config::Purpose purpose, const TextModel& model,
                const Datasets& datasets) {
  Problems problems;
  problems.passes([&] { check_length(config, make_train_loader(model, config, datasets), problems); });
  const auto check_targets = [&](const data::TokenDataset& dataset, const data::SequenceSet& sequences) {
    problems.passes([&] { eval::require_targets({dataset.name(), sequences}); });
  };
  const auto check_measured = [&](const data::TokenDataset& dataset) {
    problems.passes([&] { probe_sequences({dataset}, config.seq_len, config.probe.max_tokens); });
  };
  if (needs_general_text(config, purpose))
    std::for_each(datasets.general.begin(), datasets.general.end(), check_measured);
  if (probes_domain(config, purpose)) check_measured(datasets.train.front());
  for (const data::TokenDataset& dataset : datasets.eval) {
    check_targets(dataset, eval_sequences(config, model, dataset));
    if (config.expands() && config.eval.packed)  // the copies are measured on documents alone
      check_targets(dataset, data::windows(dataset, {.seq_len = config.seq_len}));
  }
  problems.throw_if_any();
}

}  // namespace adept::run
