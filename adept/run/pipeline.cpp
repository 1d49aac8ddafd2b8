#include "adept/run/pipeline.h"

#include <fmt/format.h>

#include <fstream>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/eval/perplexity.h"
#include "adept/io/atomic_file.h"
#include "adept/io/directory_lock.h"
#include "adept/method/expansion.h"
#include "adept/method/importance.h"
#include "adept/run/model_context.h"
#include "adept/run/report.h"
#include "adept/run/stage.h"
#include "adept/run/text.h"
#include "adept/train/trainer.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

Json fingerprints(const std::vector<data::TokenDataset>& datasets) {
  Json json = Json::object();
  for (const data::TokenDataset& dataset : datasets) json[dataset.name()] = dataset.fingerprint();
  return json;
}

void write_json(const fs::path& path, const Json& json) { io::write_file_atomically(path, json.dump(2) + "\n"); }

// What every stage of a run needs.
class Run {
 public:
  explicit Run(const config::RunConfig& config)
      : config_(config),
        dir_(prepare(config)),
        lock_(dir_),
        stages_(dir_),
        model_(load_text_model(config.model)),
        base_hash_(io::WeightFiles::open(model_.dir).hash()) {
    config::write_run_record(dir_, config);
  }

  // The model of the configuration is expanded already. Throws DataError if it is not.
  void use_expanded_model() {
    method::read_expansion(model_.dir);
    trained_from_ = model_.dir;
  }

  // Each file of tokens knows what it was made from, so this stage looks at the text every time.
  void tokenize() {
    stages_.always("tokenize", [&] { prepare_text(); });
  }

  // What would stop a later stage is said before the first one, which may take hours.
  void check_inputs(bool expands) const {
    const std::int64_t depth = model_.config.num_hidden_layers;
    if (expands && config_.expand.num_layers.value_or(0) > depth)
      throw ConfigError("expand.num_layers: found {}; expected at most {}, the layers of {}.",
                        *config_.expand.num_layers, depth, model_.dir.string());
    if (expands && !config_.expand.after.empty() && config_.expand.after.back() >= depth)
      throw ConfigError("expand.after: found {}; expected at most {}, the last layer of {}.",
                        config_.expand.after.back(), depth - 1, model_.dir.string());
    make_train_loader(model_, config_, datasets_.train);
    for (const data::TokenDataset& dataset : datasets_.eval)
      eval::require_targets(dataset.name(), eval_sequences(dataset));
    for (const data::TokenDataset& dataset : datasets_.general)
      eval::require_targets(dataset.name(), data::windows(dataset, {.seq_len = config_.seq_len}));
  }

  void baseline() {
    stages_.run("baseline", eval_inputs(base_hash_), {"eval_base.json"},
                [&] { evaluate(model_.dir, "eval_base.json"); });
  }

  void probe() {
    const Json inputs = {{"model", base_hash_},
                         {"general", fingerprints(datasets_.general)},
                         {"probe", config::to_json(config_.probe)},
                         {"seq_len", config_.seq_len},
                         {"dtype", to_string(config_.dtype)}};
    stages_.run("probe", inputs, {"importance.json"}, [&] {
      const model::Decoder decoder = load_decoder(model_.dir, config_.dtype, config_.device);
      const auto batches = to_batches(probe_sequences(datasets_.general, config_.seq_len, config_.probe.max_tokens),
                                      config_.probe.batch_size, decoder.device());
      method::Importance importance = probe_importance(
          decoder, batches, method::importance_method_from_string(config::to_string(config_.probe.method)));
      importance.model_hash = base_hash_;
      write_json(dir_ / "importance.json", method::to_json(importance));
    });
  }

  void expand() {
    std::optional<method::Importance> importance;
    std::vector<int> after(config_.expand.after.begin(), config_.expand.after.end());
    if (after.empty()) {
      importance = method::read_importance(dir_ / "importance.json");
      after = method::select_lowest(*importance, static_cast<int>(config_.expand.num_layers.value()));
    }
    const Json inputs = {
        {"model", base_hash_}, {"after", after}, {"importance", importance ? method::to_json(*importance) : Json()}};
    stages_.run("expand", inputs, {"expanded/config.json", "expanded/adept_expansion.json"}, [&] {
      method::expand_model(model_.dir, dir_ / "expanded", after, importance, io::OnExisting::kReplace);
    });
    spdlog::info("expanded   copies after layers {}", fmt::join(after, ", "));
    trained_from_ = dir_ / "expanded";
  }

  void train(bool resume) {
    const io::WeightFiles files = io::WeightFiles::open(trained_from_);
    Json config = {{"seed", config_.seed},
                   {"dtype", to_string(config_.dtype)},
                   {"seq_len", config_.seq_len},
                   {"probe_batch_size", config_.probe.batch_size},
                   {"train", config::to_json(config_.train)},
                   {"unit_lr", config::to_json(config_.unit_lr)}};
    const Json inputs = {{"model", files.hash()},
                         {"train", fingerprints(datasets_.train)},
                         {"general", fingerprints(datasets_.general)},
                         {"weights", config::to_json(config_.data).at("train")},
                         {"config", config}};
    stages_.run("train", inputs, {"model/config.json", "train_results.json"}, [&] {
      train::Trainer trainer(trainer_inputs());
      const train::TrainSummary summary = trainer.run(resume);
      trainer.export_model(dir_ / "model");
      write_json(dir_ / "train_results.json", train::to_json(summary));
    });
  }

  void evaluate_result() {
    const std::string hash = io::WeightFiles::open(dir_ / "model").hash();
    stages_.run("eval", eval_inputs(hash), {"eval_model.json"}, [&] { evaluate(dir_ / "model", "eval_model.json"); });
  }

  void report() {
    RunResults results{
        .before = {}, .after = read_results("eval_model.json"), .training = read_json(dir_ / "train_results.json")};
    if (fs::exists(dir_ / "eval_base.json")) results.before = read_results("eval_base.json");
    write_json(dir_ / "all_results.json", results_json(config_, results, stages_.records()));
    fmt::print("{}\n  model         {}\n", results_table(config_, results, stages_.records()),
               (dir_ / "model").string());
  }

 private:
  void prepare_text() {
    datasets_ = tokenize_all(model_, config_.data, dir_ / "data");
    std::vector<data::TokenDataset> all;
    for (const auto* part : {&datasets_.train, &datasets_.general, &datasets_.eval})
      all.insert(all.end(), part->begin(), part->end());
    print_counts(all);
  }

  static fs::path prepare(const config::RunConfig& config) {
    fs::path dir = config.output_dir;
    init_compute(config.threads, config.dtype, config.device);
    std::error_code error;
    fs::create_directories(dir, error);
    if (error)
      throw DataError("output_dir: {} cannot be made: {}. Choose another place.", dir.string(), error.message());
    return dir;
  }

  Json eval_inputs(const std::string& model_hash) const {
    return {{"model", model_hash},
            {"eval", fingerprints(datasets_.eval)},
            {"config", config::to_json(config_.eval)},
            {"seq_len", config_.seq_len},
            {"dtype", to_string(config_.dtype)}};
  }

  data::SequenceSet eval_sequences(const data::TokenDataset& dataset) const {
    return scoring_sequences(model_, dataset,
                             {.seq_len = config_.seq_len,
                              .stride = config_.eval.stride,
                              .packed = config_.eval.packed,
                              .max_tokens = config_.eval.max_tokens});
  }

  void evaluate(const fs::path& model_dir, const std::string& file) {
    const model::Decoder decoder = load_decoder(model_dir, config_.dtype, config_.device);
    std::map<std::string, eval::Perplexity> results;
    for (const data::TokenDataset& dataset : datasets_.eval) {
      const data::SequenceSet sequences = eval_sequences(dataset);
      Progress progress("eval", sequences.size());
      const auto result = eval::evaluate_perplexity(decoder, dataset.name(), sequences,
                                                    {.batch_size = config_.eval.batch_size}, progress);
      progress.finish(fmt::format("{} loss {:.4f}", dataset.name(), result.loss));
      eval::require_finite(dataset.name(), result);
      results[dataset.name()] = result;
    }
    write_json(dir_ / file, eval::results_to_json(results));
  }

  train::TrainerInputs trainer_inputs() const {
    train::TrainerInputs inputs{.config = config_,
                                .model_dir = trained_from_,
                                .run_dir = dir_,
                                .loader = make_train_loader(model_, config_, datasets_.train),
                                .probe = {},
                                .eval = {}};
    fmt::print(stderr, "{}", inputs.loader.format_mixture());
    if (config_.unit_lr.policy != config::UnitLrPolicy::kUniform)
      inputs.probe = to_batches(probe_sequences(datasets_.general, config_.seq_len, config_.unit_lr.probe_tokens),
                                config_.probe.batch_size, to_device(config_.device));
    for (const data::TokenDataset& dataset : datasets_.eval)
      inputs.eval.push_back({dataset.name(), eval_sequences(dataset)});
    return inputs;
  }

  std::map<std::string, eval::Perplexity> read_results(const std::string& file) const {
    return eval::results_from_json(read_json(dir_ / file), (dir_ / file).string());
  }

  const config::RunConfig& config_;
  fs::path dir_;
  io::DirectoryLock lock_;
  StageRunner stages_;
  TextModel model_;
  std::string base_hash_;
  Datasets datasets_;
  fs::path trained_from_;
};

}  // namespace

void run_pipeline(const config::RunConfig& config) {
  Run run(config);
  run.tokenize();
  run.check_inputs(/*expands=*/true);
  run.baseline();
  if (config.expand.after.empty()) run.probe();
  run.expand();
  run.train(/*resume=*/true);
  run.evaluate_result();
  run.report();
}

void run_training(const config::RunConfig& config, bool resume) {
  Run run(config);
  run.use_expanded_model();
  run.tokenize();
  run.check_inputs(/*expands=*/false);
  run.train(resume);
  run.evaluate_result();
  run.report();
}

}  // namespace adept::run
