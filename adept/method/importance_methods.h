// The ways to score a layer's importance for general skill (ADEPT, arXiv 2510.10071, section 3.1), in one table. To add
// one: a row in importance_methods.cpp, and a measure in samples.h if none of those there will do.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/method/samples.h"

namespace adept::method {

/// One way to score.
struct ImportanceMethod {
  std::string_view name;     ///< as in the configuration, "mask_out"
  std::string_view meaning;  ///< one line for help
  Measure measure;           ///< what it is made from
  /// Whether a score is the layer's mean (summed over parts): its interval is then that of a mean, else it comes from
  /// resampling.
  bool is_mean;
  /// From per-token means to one score per layer; higher is more important.
  std::vector<double> (*scores)(const LayerMeans& means);
};

/// All of them; the first is the default.
std::span<const ImportanceMethod> importance_methods();
/// "mask_out, cumulative, ..."
std::string importance_method_names(std::string_view separator);
/// Throws ConfigError that lists the known names.
const ImportanceMethod& importance_method(std::string_view name);

}  // namespace adept::method
