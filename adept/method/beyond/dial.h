// The dial: scales the copies' outputs by alpha after training.
//
// A copy adds alpha times its two branches to the residual stream: at 0 it is the identity and the model equals the
// base, at 1 it is as trained. In between is a curve of general against domain loss.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "adept/core/json.h"
#include "adept/core/progress.h"
#include "adept/io/atomic_file.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"

namespace adept::method {

/// The model with one alpha per copy, and its losses in nats per token (sources have equal weights).
struct DialPoint {
  std::vector<double> alphas;  ///< in the order of Expansion::layers
  double general_loss = 0;
  double domain_loss = 0;
};

struct DialOptions {
  int points = 11;  ///< of the curve, including 0 and 1; at least 2
  /// Maximum increase of the general loss over the base, nats per token. Excludes `general_weight`.
  std::optional<double> max_general_rise;
  /// Minimize domain_loss + general_weight * general_loss.
  std::optional<double> general_weight;
  bool per_copy = false;  ///< then search a separate alpha per copy, by coordinate search from the shared one
};

struct Dial {
  std::vector<DialPoint> curve;  ///< with a shared alpha, ascending; the first is the base
  DialPoint chosen;
};

/// File name of the record in a dialed model's directory.
inline constexpr char kDialRecord[] = "adept_dial.json";

/// Upper limit on the measurements of measure_dial, for progress.
std::int64_t most_measurements(const DialOptions& options, const Expansion& expansion);

/// Measures the curve and chooses on it: the largest alpha within the bound (found by bisection between the curve's
/// points), or the best point of the trade-off. A search per copy tries the curve's alphas for one copy after the
/// other, twice, and keeps improvements of the trade-off. Under a bound, the trade-off uses the price of the curve at
/// the bound; the found alphas are scaled onto the bound, and used if the domain loss is lower. The layers below the
/// lowest copy are computed once and kept in memory. The decoder does not change. Points in `known`, from an earlier
/// session, are not measured again; new points are added to it, also on InterruptedError. One process measures, with
/// all layers in its memory. Throws DataError if a text has no token to predict, NonFiniteError for a non-finite loss.
Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress,
                  std::vector<DialPoint>& known);
Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress);

/// Measured points of a dial, for a later session.
Json to_json(const std::vector<DialPoint>& points);
std::vector<DialPoint> points_from_json(const Json& json);

/// Writes the model of `model_dir` with these alphas: at 1 a copy keeps its bytes; all other tensors always do.
/// Includes the manifest, and kDialRecord with `record`.
void export_dialed(const std::filesystem::path& model_dir, const std::filesystem::path& out_dir,
                   const Expansion& expansion, std::span<const double> alphas, const Json& record,
                   io::OnExisting on_existing = io::OnExisting::kFail);

Json to_json(const Dial& dial, const Expansion& expansion);

}  // namespace adept::method
