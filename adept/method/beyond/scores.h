// The scores of layers from a probe, and their file, importance.json.
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
#include "adept/io/model_identity.h"

namespace adept::method {

/// The score of one layer.
struct LayerImportance {
  int index = 0;                  ///< in the probed model, 0 .. L-1
  double score = 0;               ///< see ../importance.h
  double normalized = 0;          ///< (score - min) / (max - min) over layers; 0 if the range is 0
  int rank = 0;                   ///< 1 = the most important layer
  std::array<double, 2> ci95{};   ///< of `score`, the sequences of each source being its sample
  double lowest_share = 0;        ///< of resamples in which the layer is among the k lowest
  std::vector<double> figures{};  ///< additional figures of the method (ImportanceMethod::figures)
};

/// Confidence in the choice of the k lowest, from bootstrap samples of the sequences.
struct Stability {
  int num_lowest = 0;          ///< k
  int num_resamples = 0;       ///< 0: unknown
  double same_set_share = 0;   ///< of resamples with the same k lowest as the scores
  int degrees_of_freedom = 0;  ///< N - sources
  /// (L, L) of the scores over the resamples: which differences between layers are certain. Empty: unknown.
  std::vector<std::vector<double>> covariance;
};

/// Outcome of a probe that may stop early.
struct Separation {
  bool reached = false;       ///< the k lowest were the same in `required_share` of the resamples
  double required_share = 0;  ///< 1 - 0.05 / rounds of the text
  int looks = 0;              ///< rounds after which the scores were checked
};

/// The scores of one method, and the contents of importance.json.
struct Importance {
  std::string method;
  std::optional<io::ModelIdentity> model;  ///< probed model; an expansion rejects scores of another model
  double baseline_loss = 0;                ///< nats per token, sources with their weights
  std::int64_t tokens = 0;                 ///< predicted tokens
  std::int64_t sequences = 0;
  std::vector<LayerImportance> layers;
  Stability stability;
  std::optional<Separation> separation;

  std::vector<double> scores() const;
};

/// Fills normalized and rank from the scores. Ties are ranked by index. Throws NonFiniteError for a score that is not
/// finite.
void normalize_and_rank(std::vector<LayerImportance>& layers);

/// importance.json: the first method is at the top level, the others are in "methods" by name.
Json to_json(const Importance& importance);
Json to_json(std::span<const Importance> importances);
/// The scores of `method`, or those at the top level. Throws DataError with the missing, ill-typed or out-of-range
/// field.
Importance importance_from_json(const Json& json, const std::string& where, const std::string& method = "");
/// From a file: a record (io/record.h). A file without a checksum, which a user may have written, is accepted if it is
/// valid.
Importance read_importance(const std::filesystem::path& path, const std::string& method = "");

}  // namespace adept::method
