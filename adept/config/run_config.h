// The configuration of a run: plain structs, whose fields, units and limits are described once, in schema.h. `adept
// config --explain` prints the same. A member's initializer is its default.
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
#include "adept/data/options.h"
#include "adept/data/weight_schedule.h"
#include "adept/dist/options.h"
#include "adept/eval/options.h"
#include "adept/method/options.h"
#include "adept/nn/options.h"
#include "adept/optim/options.h"
#include "adept/train/options.h"

namespace adept::config {

/// Defaults that commands share with the configuration.
inline constexpr std::int64_t kDefaultSeqLen = 512;   ///< tokens
inline constexpr std::int64_t kDefaultNumLayers = 4;  ///< copied layers
/// What unset optional fields are set to when a configuration is loaded.
inline constexpr double kDefaultWarmupRatio = 0.03;
inline constexpr double kDefaultEpochs = 1.0;
inline constexpr double kReplayRatio = 0.02;  ///< if there is text to replay, except of the method replay:
inline constexpr double kReplayMethodRatio = 0.25;
/// Of data.general where it is replayed. Up to four epochs are almost as good as new text (arXiv:2305.16264).
inline constexpr double kGeneralReplayEpochs = 4;

struct TrainSource : data::TextSource {
  std::optional<data::WeightSchedule> weight;  ///< relative share of the training tokens; if no source has one, by size
  std::optional<double> epochs;                ///< at most so many passes over it
  std::optional<std::int64_t> max_tokens;      ///< at most so many tokens of it
  std::optional<std::string> tag;              ///< in front of each document
};

struct GeneralSource : data::TextSource {
  std::optional<double> weight;  ///< relative weight in measurements; if no source has one, equal
};

struct EvalSource : data::TextSource {
  EvalRole role = EvalRole::kOther;
};

struct DataConfig {
  std::vector<TrainSource> train;
  std::vector<TrainSource> replay;     ///< mixed in with share train.replay_ratio
  bool replays_general = false;        ///< whether loading filled `replay` with the text of `general`
  std::vector<GeneralSource> general;  ///< the general-competence detection corpus: layer probe and unit importance
  std::vector<EvalSource> eval;
  bool deduplicate = false;
  bool drop_contaminated = false;
  data::Packing packing = data::Packing::kConcat;
  double temperature = 1;  ///< of shares that follow from size
  bool document_mask = data::kDocumentMask;
  bool verify = false;  ///< check texts and token stores as a whole at the start
};

/// How to compute.
struct Compute {
  DTypeChoice dtype = DTypeChoice::kAuto;  ///< auto until run::init_compute decides
  Device device = Device::kCpu;
  std::int64_t threads = 0;  ///< 0 = all physical cores available
  nn::Kernels kernels = nn::Kernels::kFused;

  /// The chosen or resolved dtype; InternalError while it is auto.
  ComputeDType decided_dtype() const;
};

struct RunConfig {
  std::string model;
  std::string output_dir;
  train::Method method = train::Method::kAdept;
  bool keep_expanded = false;
  std::int64_t seed = 42;
  Compute compute;  ///< its fields are keys of the top level
  DTypeChoice export_dtype = DTypeChoice::kAuto;
  std::int64_t seq_len = kDefaultSeqLen;
  DataConfig data;
  method::LayerProbeOptions probe;
  method::SelectionOptions expand;  ///< after loading, the strategy is set, and one of its three sizes
  train::TrainOptions train;
  method::UnitLrOptions unit_lr;  ///< after loading, ema is set
  train::LoraOptions lora;
  train::TopKLayersOptions top_k_layers;
  eval::EvalOptions eval;
  dist::DistOptions dist;

  /// Whether the method trains copies of layers.
  bool expands() const { return method == train::Method::kAdept || method == train::Method::kLlamaPro; }
  /// Whether rows of new tokens train apart from the rest of the embedding.
  bool trains_new_tokens() const {
    return train.train_new_embeddings && method != train::Method::kFull && method != train::Method::kReplay;
  }
};

/// The purpose of loading a configuration: it determines which parts are required.
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

/// A problem with the length of a training: the keys that it depends on (reported at the first), and "found X; expected
/// Y".
struct LengthProblem {
  std::vector<std::string> keys;
  std::string text;
};

/// Problems of a training with `steps` steps: too many steps, or a warm-up or decay that is too long. Loading checks
/// this if max_steps is set; otherwise it is checked once the data are known.
std::vector<LengthProblem> length_problems(const train::TrainOptions& train, std::optional<std::int64_t> steps);

/// The whole configuration, defaults included, in the order of `explain`. Loading it gives the same configuration.
std::string to_yaml(const RunConfig& config);

/// The same as JSON.
Json to_json(const RunConfig& config);

/// What a key decides: an earlier result is valid only if the keys that decide it have not changed. A key may decide
/// several results.
namespace decides {
inline constexpr unsigned kNothing = 1;      ///< paths, logging intervals, how to compute
inline constexpr unsigned kContents = 2;     ///< inputs, which are identified by their contents instead
inline constexpr unsigned kProbe = 4;        ///< layer importance
inline constexpr unsigned kExpansion = 8;    ///< which layers are copied
inline constexpr unsigned kTraining = 16;    ///< the weights after a step: a resume with a different value is refused
inline constexpr unsigned kEnd = 32;         ///< the trained model; a training may continue with a different value
inline constexpr unsigned kEvaluation = 64;  ///< losses on held-out text
inline constexpr unsigned kCopies = 128;     ///< the loss without each copy
inline constexpr unsigned kMixture = 256;    ///< how much is read of each source; the loader compares its effect
}  // namespace decides

/// The keys that decide any of `what`, in the form of to_json, without those that the method does not use.
Json deciding(const RunConfig& config, unsigned what);

/// Whether `name` can name a source: 1 to 64 letters, digits, '.', '_' and '-', the first a letter or a digit.
bool is_source_name(std::string_view name);

/// A table of every key, its default and the start of its meaning, in lines of at most `width` columns (66 at least).
std::string explain(std::size_t width);
/// Each of `names`, keys or sections with all of their keys, in full: type, default, unit, meaning. Throws ConfigError
/// that lists unknown names with suggestions.
std::string explain(std::span<const std::string> names, std::size_t width);

}  // namespace adept::config
