// The importance of decoder layers for general skill (ADEPT, arXiv 2510.10071, section 3.1): how much each layer
// contributes to the skill that training must not lose. The least important layers are expanded.
//
// All methods are in one table in importance.cpp. To add one, add a row, and a pass if none of the existing ones fits.
// Names in the configuration and on the command line, help, intervals and `--method all` follow.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "adept/dist/division.h"
#include "adept/method/beyond/samples.h"
#include "adept/method/beyond/scores.h"
#include "adept/method/options.h"
#include "adept/model/decoder.h"
#include "adept/model/weights.h"

namespace adept::method {

/// Called regularly with the number of positions computed since the last call.
using Tick = std::function<void(std::int64_t positions)>;

/// A pass over a batch, in pieces that are computed on their own, such as layers or sequences: processes divide them.
struct Pass {
  std::int64_t (*num_pieces)(const model::Decoder& decoder, const ProbeBatch& batch);
  /// The numbers of each of these pieces, which are ascending. Leaves the decoder's weights and their gradients as they
  /// are, and calls `tick` after each piece; where processes share the layers (Decoder::is_shared), they agree there
  /// whether a signal ends the pass, otherwise it calls throw_if_interrupted() between layers or sequences as well.
  std::vector<dist::Numbers> (*measure)(const model::Decoder& decoder, const ProbeBatch& batch,
                                        std::span<const std::int64_t> pieces, const Tick& tick);
  /// Adds the numbers of all pieces. The probe has added the batch's sequences to `samples` (add_sequences); `add`
  /// adds, in their order and without those that predict no token:
  ///   - to the table of each of its measures (samples.table(name), which creates it): for each layer and tensor (one
  ///     without a name for the whole layer), the total over the sequence's predicted tokens;
  ///   - to samples.losses, unless an earlier pass over this batch has done so: the sum of the sequence's losses, nats.
  void (*add)(const model::Decoder& decoder, const ProbeBatch& batch, std::span<const dist::Numbers> pieces,
              ProbeSamples& samples);
};

/// Scores computed from means over sequences.
struct FromSequences {
  std::string_view measure;  ///< the table of ProbeSamples
  const Pass* pass;          ///< the cheapest pass that fills it
  /// Whether a score is the layer's mean (summed over its tensors): its interval is then that of a mean; otherwise it
  /// comes from resampling.
  bool is_mean;
  /// From per-token means to one score per layer; higher is more important.
  std::vector<double> (*scores)(const LayerMeans& means);
  const Pass* as_well_from =
      nullptr;  ///< another pass that also fills the table: if it runs anyway, `pass` is not needed
};

/// Scores that require whole texts and have no values per sequence, and therefore no intervals. The processes of
/// `group` divide the batches, and each gets the result. Ticks once per batch, on every process.
struct FromTexts {
  Importance (*measure)(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                        std::span<const ProbeBatch> domain, const Tick& tick, dist::ProcessGroup& group);
};

/// An additional figure next to a score, in importance.json and in the table of `adept probe`.
struct Figure {
  std::string_view name, title;
  bool can_be_negative;
  int width, decimals;  ///< of its column
};

/// One importance method.
struct ImportanceMethod {
  std::string_view name;     ///< as in the configuration, "mask_out"
  std::string_view meaning;  ///< one line for help
  std::variant<FromSequences, FromTexts> scores;
  bool needs_domain = false;              ///< also requires domain text
  bool highest_are_best = false;          ///< for copying; otherwise the lowest are
  std::span<const Figure> figures = {};   ///< of LayerImportance::figures
  std::string_view figures_meaning = "";  ///< above their table
};

/// All of them; the first is the default.
std::span<const ImportanceMethod> importance_methods();
/// "mask_out, cumulative, ..."
std::string importance_method_names(std::string_view separator);
/// Throws ConfigError that lists the known names.
const ImportanceMethod& importance_method(std::string_view name);
/// Null for an unknown name, which user-written scores may have.
const ImportanceMethod* find_importance_method(std::string_view name);

/// |theta_i g_i| in fp32; theta is the effective value: 1 + w for gains stored as w.
at::Tensor first_order_terms(const model::Parameter& parameter, const at::Tensor& gradient);
/// Their sum, in fp64.
double first_order_importance(const model::Parameter& parameter, const at::Tensor& gradient);

}  // namespace adept::method
