// The importance of decoder layers for general skill (ADEPT, arXiv 2510.10071, section 3.1): what each layer is worth
// to the skill that must not be lost. The least important ones are expanded.
//
// All ways to score are in one table, importance.cpp. To add one: a row there, and the pass that measures it if none of
// those there will do. Names in the configuration and on the command line, help, intervals and `--method all` follow.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "adept/method/beyond/samples.h"
#include "adept/method/beyond/scores.h"
#include "adept/model/decoder.h"
#include "adept/model/weights.h"

namespace adept::method {

/// Called now and then with the positions that were computed since.
using Tick = std::function<void(std::int64_t positions)>;

/// What a pass over a batch does: adds the batch's sequences to the tables of its measures. The decoder's weights and
/// their gradients are left as they were.
struct Pass {
  void (*run)(const model::Decoder& decoder, const ProbeBatch& batch, ProbeSamples& samples, const Tick& tick);
  std::int64_t (*num_ticks)(const model::Decoder& decoder, const ProbeBatch& batch);
};

/// Scores made of means over sequences.
struct FromSequences {
  std::string_view measure;  ///< the table of ProbeSamples
  const Pass* pass;          ///< the cheapest that makes it
  /// Whether a score is the layer's mean (summed over parts): its interval is then that of a mean, else it comes from
  /// resampling.
  bool is_mean;
  /// From per-token means to one score per layer; higher is more important.
  std::vector<double> (*scores)(const LayerMeans& means);
  const Pass* as_well_from = nullptr;  ///< another that makes the table too: where it runs anyway, `pass` need not
};

/// Scores that need the whole texts at once, of which nothing is known sequence by sequence: no intervals. Ticks once
/// for each batch.
struct FromTexts {
  Importance (*measure)(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                        std::span<const ProbeBatch> domain, const Tick& tick);
};

/// A figure beside a score, in importance.json and in the table of `adept probe`.
struct Figure {
  std::string_view name, title;
  bool can_be_negative;
  int width, decimals;  ///< of its column
};

/// One way to score.
struct ImportanceMethod {
  std::string_view name;     ///< as in the configuration, "mask_out"
  std::string_view meaning;  ///< one line for help
  std::variant<FromSequences, FromTexts> scores;
  bool needs_domain = false;              ///< it is measured on domain text as well
  bool highest_are_best = false;          ///< to copy; else the lowest are
  std::span<const Figure> figures = {};   ///< of LayerImportance::figures
  std::string_view figures_meaning = "";  ///< above their table
};

/// All of them; the first is the default.
std::span<const ImportanceMethod> importance_methods();
/// "mask_out, cumulative, ..."
std::string importance_method_names(std::string_view separator);
/// Throws ConfigError that lists the known names.
const ImportanceMethod& importance_method(std::string_view name);
/// Nothing for an unknown name, which scores that a user wrote may have.
const ImportanceMethod* find_importance_method(std::string_view name);

/// |theta_i g_i| in fp32; theta is what takes effect: 1 + w for gains that are stored as w.
at::Tensor first_order_terms(const model::Parameter& parameter, const at::Tensor& gradient);
/// Their sum, in fp64.
double first_order_importance(const model::Parameter& parameter, const at::Tensor& gradient);

}  // namespace adept::method
