// General-competence importance of decoder layers (ADEPT, arXiv 2510.10071, section 3.1): what each layer is worth to
// the general skill that must not be lost. The least important ones are expanded. The ways to score are in
// importance_methods.h.
//
// Legend: L layers, N sequences.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"
#include "adept/io/model_identity.h"
#include "adept/method/gain.h"
#include "adept/method/importance_methods.h"

namespace adept::method {

/// The score of one layer.
struct LayerImportance {
  int index = 0;                    ///< in the probed model, 0 .. L-1
  double score = 0;                 ///< see importance_methods.h
  double normalized = 0;            ///< (score - min) / (max - min) over layers; 0 where the range is 0
  int rank = 0;                     ///< 1 = the most important layer
  std::array<double, 2> ci95{};     ///< of `score`, the sequences of each source being its sample
  double lowest_share = 0;          ///< of resamples in which the layer is among the k lowest
  std::optional<LayerGain> gain{};  ///< where the score is one
};

/// How sure the choice of the k lowest is: from scores of bootstrap samples of the sequences.
struct Stability {
  int num_lowest = 0;          ///< k
  int num_resamples = 0;       ///< 0: unknown
  double same_set_share = 0;   ///< of resamples whose k lowest are those of the scores
  int degrees_of_freedom = 0;  ///< N - sources
  /// (L, L) of the scores over the resamples: which differences between layers are certain. Empty: unknown.
  std::vector<std::vector<double>> covariance;
};

/// How a probe went that could stop early.
struct Separation {
  bool reached = false;       ///< the k lowest were the same in `required_share` of the resamples
  double required_share = 0;  ///< 1 - 0.05 / planned looks
  int looks = 0;              ///< times that the scores were looked at
};

/// The scores of one method, and the contents of importance.json.
struct Importance {
  std::string method;
  std::optional<io::ModelIdentity> model;  ///< that was probed; an expansion refuses scores of another one
  double baseline_loss = 0;                ///< nats per token, sources weighing the same
  std::int64_t tokens = 0;                 ///< predicted tokens
  std::int64_t sequences = 0;
  std::vector<LayerImportance> layers;
  Stability stability;
  std::optional<Separation> separation;

  std::vector<double> scores() const;
};

/// Scores, intervals and stability from what was measured. Throws NonFiniteError for a score that is not finite.
Importance summarize(const ProbeSamples& samples, const ImportanceMethod& method, int num_lowest,
                     const std::vector<int>& exclude = {});

/// What to measure.
struct ProbeOptions {
  std::vector<std::string> methods = {"mask_out"};
  int num_lowest = 4;          ///< k, for the stability; at most L less those excluded
  std::vector<int> exclude{};  ///< layers that are never among the k lowest
  /// Stop as soon as the k lowest of the first method are separated from the rest: the same ones in 1 - 0.05 / looks of
  /// the resamples (the error of 5 % is shared by all looks, Bonferroni).
  bool until_separated = false;
};

/// How far a probe is.
struct ProbeState {
  std::int64_t batches = 0;  ///< of `parts`, in their order, that were measured
  ProbeSamples samples;      ///< of these
};

/// One Importance per method, in the order asked, all from the fewest passes: one backward pass gives all methods that
/// need gradients. `parts` is the text; the scores are looked at after each part, which only `until_separated` needs.
/// It goes on from `state`, which after an InterruptedError is what it can go on from later, with the same result.
/// Throws ConfigError for an unknown method or num_lowest, DataError if no token is predicted, NonFiniteError if a
/// score or the model's loss is not finite.
std::vector<Importance> probe(const model::Decoder& decoder, std::span<const std::vector<ProbeBatch>> parts,
                              const ProbeOptions& options, Progress& progress, ProbeState& state);
std::vector<Importance> probe(const model::Decoder& decoder, std::span<const std::vector<ProbeBatch>> parts,
                              const ProbeOptions& options, Progress& progress);
/// Units of work that `probe` tells the progress line.
std::int64_t probe_work(const model::Decoder& decoder, std::span<const std::vector<ProbeBatch>> parts,
                        const ProbeOptions& options);

/// The name of scores that are gains.
inline constexpr char kGainMethod[] = "gain";
/// Gains as scores, a layer's being its l1: here the highest are the best. baseline_loss, tokens and sequences are
/// those of the domain text.
Importance to_importance(const Gain& gain);

/// Fills normalized and rank from the scores. Ties are ranked by index. Throws NonFiniteError for a score that is not
/// finite.
void normalize_and_rank(std::vector<LayerImportance>& layers);

/// importance.json: the first of several methods is the file's own, the others are in "methods" by name.
Json to_json(const Importance& importance);
Json to_json(std::span<const Importance> importances);
/// The scores of `method`, or the file's own. Throws DataError that names the field that is missing, ill-typed or out
/// of its range.
Importance importance_from_json(const Json& json, const std::string& where, const std::string& method = "");
/// From a file: a record (io/record.h). One without a checksum, which a user may have written, is taken if it is valid.
Importance read_importance(const std::filesystem::path& path, const std::string& method = "");

}  // namespace adept::method
