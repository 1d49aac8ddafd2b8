// General-competence importance of decoder layers (ADEPT, arXiv 2510.10071, section 3.1): what each layer is worth to
// the general skill that must not be lost. The least important ones are expanded.
//
// Legend: L layers, N sequences.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"
#include "adept/model/batch.h"
#include "adept/model/decoder.h"

namespace adept::method {

/// How the score of a layer is computed.
enum class ImportanceMethod {
  kMaskOut,     ///< loss with the layer bypassed minus the model's loss, nats per token; the paper's best
  kCumulative,  ///< sum of |gradient * weight| over the layer's tensors, divided by the largest layer's
};

/// "mask_out", "cumulative".
std::string_view to_string(ImportanceMethod method);
/// Throws ConfigError that lists the known names.
ImportanceMethod importance_method_from_string(std::string_view name);

/// The score of one layer.
struct LayerImportance {
  int index = 0;                 ///< in the probed model, 0 .. L-1
  double score = 0;              ///< see ImportanceMethod
  double normalized = 0;         ///< (score - min) / (max - min) over layers; 0 where the range is 0
  int rank = 0;                  ///< 1 = the most important layer
  std::array<double, 2> ci95{};  ///< of `score`, paired over sequences
};

/// The result of a probe, and the contents of importance.json.
struct Importance {
  std::string method;
  std::string model_hash;    ///< content hash of the probed weights; an expansion refuses scores of another model
  double baseline_loss = 0;  ///< nats per token
  std::int64_t tokens = 0;   ///< predicted tokens
  std::int64_t sequences = 0;
  std::vector<LayerImportance> layers;
};

/// Bypasses every layer in turn (identity residual).
///
/// The prefix below a bypassed layer is computed once and reused, so the cost is L + L(L-1)/2 layer passes and L+1
/// heads instead of L + L(L-1); the losses are bit-identical to bypassing from scratch. Throws DataError if no token is
/// predicted or a score is not finite.
Importance mask_out(const model::Decoder& decoder, const std::vector<model::Batch>& batches, Progress& progress);

/// The plain definition of mask_out: L+1 whole forward passes. For tests.
Importance mask_out_naive(const model::Decoder& decoder, const std::vector<model::Batch>& batches);

/// First-order importance from one backward pass per sequence: I_theta = mean over sequences, weighted by their
/// predicted tokens, of sum_i |g_i theta_i|, g the gradient of the sequence's mean loss. Activations are kept at layer
/// boundaries only. The decoder's weights and their gradients are left as they were. Throws DataError if no token is
/// predicted or a score is not finite.
Importance cumulative(const model::Decoder& decoder, const std::vector<model::Batch>& batches, Progress& progress);

/// Fills normalized and rank from the scores. Ties are ranked by index. Throws NonFiniteError for a score that is not
/// finite.
void normalize_and_rank(std::vector<LayerImportance>& layers);

Json to_json(const Importance& importance);
/// Throws DataError that names the missing or ill-typed field.
Importance importance_from_json(const Json& json, const std::string& where);
Importance read_importance(const std::filesystem::path& path);

}  // namespace adept::method
