// The configuration of a run: plain structs, whose fields, units and limits are described once, in schema.h.
// `adept config --explain` prints the same. A default is the member's initialiser.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/config/enums.h"
#include "adept/core/json.h"

namespace adept::config {

/// One named set of text.
struct Source {
  std::string name;                ///< unique in the configuration; a JSON key and part of file names
  std::vector<std::string> paths;  ///< .txt or .jsonl, each also .gz; files, folders, globs
  std::string text_field = "text";
  TxtRecord txt_record = TxtRecord::kFile;
  BadRecord on_bad_record = BadRecord::kFail;
};

struct TrainSource : Source {
  std::optional<double> weight;  ///< share of the training tokens, relative; none in any source: in proportion to size
};

struct GeneralSource : Source {
  std::optional<double> weight;  ///< share in a measurement, relative; none in any source: all the same
};

struct EvalSource : Source {
  EvalRole role = EvalRole::kOther;
};

struct DataConfig {
  std::vector<TrainSource> train;
  std::vector<TrainSource> replay;     ///< mixed in as train.replay_ratio says
  std::vector<GeneralSource> general;  ///< the general-competence detection corpus: layer probe and unit importance
  std::vector<EvalSource> eval;
};

struct ProbeConfig {
  ProbeMethod method = ProbeMethod::kMaskOut;
  std::int64_t max_tokens = 65536;  ///< 0 = all
  bool until_separated = false;
  std::int64_t batch_size = 8;
};

/// After loading, the strategy is set, and exactly one of num_layers, trainable and after.
struct ExpandConfig {
  std::optional<SelectionStrategy> strategy;
  std::optional<std::int64_t> num_layers;  ///< 4 if none of the three is given
  std::optional<double> trainable;         ///< share of all parameters, 0 .. 1
  std::vector<std::int64_t> after;
  std::int64_t copies = 1;
  std::vector<std::int64_t> exclude;

  /// Whether the choice goes by importance scores.
  bool needs_scores() const {
    return strategy != SelectionStrategy::kManual && strategy != SelectionStrategy::kUniform;
  }
};

/// After loading, exactly one of max_steps and num_train_epochs is set, and exactly one of the two warm-ups.
struct TrainConfig {
  double learning_rate = 2e-4;
  LrScheduler lr_scheduler = LrScheduler::kCosine;
  std::optional<std::int64_t> warmup_steps;
  std::optional<double> warmup_ratio;  ///< 0.03 if neither is given
  double min_lr_ratio = 0.1;
  double decay_ratio = 0.1;
  std::optional<std::int64_t> max_steps;
  std::optional<double> num_train_epochs;  ///< 1 if neither is given
  std::optional<double> replay_ratio;      ///< after loading, set: 0.25 for the method replay, else 0
  bool continue_data = false;
  std::int64_t batch_size = 4;
  std::int64_t grad_accum = 1;
  ActivationCheckpointing activation_checkpointing = ActivationCheckpointing::kNone;
  double activation_cache = 4;  ///< GB; 0 = none
  double weight_decay = 0.0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_eps = 1e-8;
  double max_grad_norm = 1.0;
  std::int64_t logging_steps = 10;
  std::vector<std::string> report_to;  ///< names of train::make_metric_sinks
  std::int64_t eval_steps = 0;
  std::int64_t save_steps = 500;
  std::int64_t save_total_limit = 2;
  std::int64_t max_nonfinite_steps = 5;
};

/// Units whose rate is multiplied.
struct UnitFactor {
  std::string units;  ///< pattern of their names: * and ?
  double factor = 1;
};

struct UnitLrConfig {
  UnitLrPolicy policy = UnitLrPolicy::kReference;
  bool by_head = false;
  std::int64_t ffn_block_size = 0;  ///< 0 = whole tensors
  double floor = 0.1;               ///< of the policy normalized
  std::optional<double> ema;        ///< after loading, set: 0.5 for the policy normalized, else 0
  std::vector<UnitFactor> factors;
  std::int64_t update_every = 500;
  std::int64_t probe_tokens = 16384;
};

struct LoraConfig {
  std::int64_t rank = 8;
  std::optional<double> alpha;  ///< 2 rank if it is not given
  double dropout = 0.0;
  std::vector<std::string> target_modules;  ///< empty: all projections
};

struct TopKLayersConfig {
  std::int64_t num_layers = 4;
};

/// How everything is computed.
struct Compute {
  DTypeChoice dtype = DTypeChoice::kAuto;  ///< auto until run::init_compute decides
  Device device = Device::kCpu;
  std::int64_t threads = 0;  ///< 0 = the physical cores available
  Kernels kernels = Kernels::kFused;

  /// What was chosen or decided; an InternalError while it is auto.
  ComputeDType decided_dtype() const;
};

struct EvalConfig {
  std::int64_t batch_size = 8;
  bool packed = false;
  std::int64_t stride = 0;
  std::int64_t max_tokens = 65536;    ///< 0 = all
  std::int64_t copies_tokens = 4096;  ///< 0 = not measured
};

struct RunConfig {
  std::string model;
  std::string output_dir;
  Method method = Method::kAdept;
  bool keep_expanded = false;
  std::int64_t seed = 42;
  Compute compute;  ///< its fields are keys of the top level
  ExportDType export_dtype = ExportDType::kAuto;
  std::int64_t seq_len = 512;
  DataConfig data;
  ProbeConfig probe;
  ExpandConfig expand;
  TrainConfig train;
  UnitLrConfig unit_lr;
  LoraConfig lora;
  TopKLayersConfig top_k_layers;
  EvalConfig eval;

  /// Whether the method trains copies of layers.
  bool expands() const { return method == Method::kAdept || method == Method::kLlamaPro; }
};

/// What a configuration is loaded for: it decides which parts must be there.
enum class Purpose {
  kRun,   ///< `adept run`: everything
  kTrain  ///< `adept train`: `model` is already expanded, so nothing is probed or expanded
};

/// Reads a YAML file, applies `overrides` ("train.learning_rate=1e-4", "data.eval.0.path=held_out.txt", values as in
/// YAML) in order, and checks everything. Relative paths stay relative to the working directory; a leading ~ is
/// expanded.
///
/// Throws one ConfigError that lists every problem, each as `FILE:LINE: key: found X; expected Y`.
RunConfig load_run_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {},
                          Purpose purpose = Purpose::kRun);

/// The same from text; `file` is the name in messages.
RunConfig parse_run_config(const std::string& text, const std::string& file,
                           const std::vector<std::string>& overrides = {}, Purpose purpose = Purpose::kRun);

/// What is wrong with the course of a training, as the keys that it depends on, the first to be blamed, and "found X;
/// expected Y".
struct LengthProblem {
  std::vector<std::string> keys;
  std::string text;
};

/// What does not fit a training of so many steps: too many of them, a warm-up or a decay that is longer. Loading checks
/// it where max_steps gives them; where they follow from epochs, whoever knows the data does.
std::vector<LengthProblem> length_problems(const TrainConfig& train, std::optional<std::int64_t> steps);

/// The whole configuration, defaults included, in the order of `explain`. Loading it gives the same configuration.
std::string to_yaml(const RunConfig& config);

/// The same as JSON, whole or one section, for hashing the inputs of a stage.
Json to_json(const RunConfig& config);
Json to_json(const Source& config);
Json to_json(const TrainSource& config);
Json to_json(const GeneralSource& config);
Json to_json(const EvalSource& config);
Json to_json(const DataConfig& config);
Json to_json(const ProbeConfig& config);
Json to_json(const ExpandConfig& config);
Json to_json(const TrainConfig& config);
Json to_json(const UnitFactor& config);
Json to_json(const UnitLrConfig& config);
Json to_json(const LoraConfig& config);
Json to_json(const TopKLayersConfig& config);
Json to_json(const EvalConfig& config);

/// Whether `name` can name a source: 1 to 64 letters, digits, '.', '_' and '-', the first a letter or a digit.
bool is_source_name(std::string_view name);

/// A table of every key, its default and the start of its meaning, in lines of at most `width` columns (66 at least).
std::string explain(std::size_t width);
/// Each of `names`, keys or sections with all of their keys, in full: type, default, unit, meaning. Throws ConfigError
/// that names the unknown ones, and what may be meant.
std::string explain(std::span<const std::string> names, std::size_t width);

}  // namespace adept::config
