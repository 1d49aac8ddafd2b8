// How much of what was learnt is used: the copies' outputs scaled by alpha, without training anything.
//
// A copy adds alpha times what its two branches do to the residual stream: at 0 it is the identity and the
// model exactly the base, at 1 it is as trained. Between them lies a curve of general against domain loss.
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

/// The model with one alpha per copy, and its losses in nats per token (sources weigh the same).
struct DialPoint {
  std::vector<double> alphas;  ///< in the order of Expansion::layers
  double general_loss = 0;
  double domain_loss = 0;
};

struct DialOptions {
  int points = 11;  ///< of the curve, 0 and 1 included; at least 2
  /// The general loss may be this much above the base's, nats per token. Not together with `general_weight`.
  std::optional<double> max_general_rise;
  /// The lowest domain_loss + general_weight * general_loss is wanted.
  std::optional<double> general_weight;
  bool per_copy = false;  ///< then each copy gets an alpha of its own, by coordinate search from the common one
};

struct Dial {
  std::vector<DialPoint> curve;  ///< with a common alpha, ascending; the first is the base
  DialPoint chosen;
};

/// File name of the record in a dialed model's directory.
inline constexpr char kDialRecord[] = "adept_dial.json";

/// How often measure_dial measures at most, for a progress line.
std::int64_t most_measurements(const DialOptions& options, const Expansion& expansion);

/// Measures the curve and chooses on it: the largest alpha within the bound (found by bisection between the curve's
/// points), or the best point of the trade-off. A search per copy tries the curve's alphas for one copy after the
/// other, twice, and keeps what improves the trade-off. Under a bound that is the trade-off at the price that the curve
/// has where it meets the bound; the alphas found are scaled onto the bound, and taken if the domain loss is lower. The
/// layers below the lowest copy are computed once; their output is kept in memory. The decoder is left as it was.
/// Points that are in `known`, which an earlier session measured of the same, are not measured again; new ones are
/// added to it, and are there after an InterruptedError too. Throws DataError if there is no token to predict in one of
/// the texts, NonFiniteError for a loss that is no number.
Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress,
                  std::vector<DialPoint>& known);
Dial measure_dial(model::Decoder& decoder, const Expansion& expansion, const std::vector<ProbeBatch>& general,
                  const std::vector<ProbeBatch>& domain, const DialOptions& options, Progress& progress);

/// What is known of a dial, for another session.
Json to_json(const std::vector<DialPoint>& points);
std::vector<DialPoint> points_from_json(const Json& json);

/// Writes the model of `model_dir` with these alphas: at 1 a copy keeps its bytes, all other tensors always do. The
/// manifest goes with it, and kDialRecord holds `record`.
void export_dialed(const std::filesystem::path& model_dir, const std::filesystem::path& out_dir,
                   const Expansion& expansion, std::span<const double> alphas, const Json& record,
                   io::OnExisting on_existing = io::OnExisting::kFail);

Json to_json(const Dial& dial, const Expansion& expansion);

}  // namespace adept::method
