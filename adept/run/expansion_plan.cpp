#include "adept/run/expansion_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/method/beyond/cost_aware_selection.h"
#include "adept/method/expansion.h"
#include "adept/method/selection.h"
#include "adept/model/cost.h"
#include "adept/run/preflight.h"
#include "adept/run/run_directory.h"

namespace adept::run {
namespace {

int num_excluded(const method::SelectionOptions& expand) {
  return static_cast<int>(std::set<std::int64_t>(expand.exclude.begin(), expand.exclude.end()).size());
}

}  // namespace

int num_copied_layers(const method::SelectionOptions& expand, const model::ModelConfig& base) {
  if (expand.trainable)
    return method::num_layers_for_budget(base, *expand.trainable, static_cast<int>(expand.copies),
                                         num_excluded(expand));
  return static_cast<int>(expand.num_layers.value_or(0));
}

void check_expansion(const method::SelectionOptions& expand, const model::ModelConfig& base, const std::string& where) {
  const std::int64_t depth = base.num_hidden_layers;
  for (const std::int64_t layer : expand.after) method::check_layer_index("expand.after", layer, depth, where);
  for (const std::int64_t layer : expand.exclude) method::check_layer_index("expand.exclude", layer, depth, where);
  const std::int64_t left = depth - num_excluded(expand), chosen = num_copied_layers(expand, base);
  if (chosen > left)
    throw ConfigError("{}: found {}; expected at most {}, the number of layers of {}{}.",
                      expand.trainable ? "the number of layers of expand.trainable" : "expand.num_layers", chosen, left,
                      where, expand.exclude.empty() ? "" : " minus those in expand.exclude");
}

std::vector<int> choose_layers(const method::SelectionOptions& expand, const model::ModelConfig& base,
                               std::int64_t seq_len, const std::optional<method::Importance>& importance) {
  method::SelectionOptions options = expand;
  if (expand.after.empty()) options.num_layers = num_copied_layers(expand, base);
  return method::select_layers(
      options, static_cast<int>(base.num_hidden_layers), importance,
      [&](std::span<const int> after) { return model::copies_step_flops(base, seq_len, after); });
}

std::optional<method::Importance> finished_probe(const config::RunConfig& config,
                                                 const std::filesystem::path& model_dir) {
  const std::filesystem::path dir = config.output_dir, record = dir / files::kStages / "probe.json";
  if (!std::filesystem::exists(record) || !std::filesystem::exists(dir / files::kImportance)) return std::nullopt;
  try {
    const Json stage = io::read_record(record), inputs = stage.at("inputs");
    if (stage.value("interrupted", false)) return std::nullopt;
    const Json decided = config::deciding(config, config::decides::kProbe);
    for (const auto& [key, value] : decided.items())
      if (inputs.value(key, Json()) != value) return std::nullopt;
    if (inputs.at("model") != io::to_json(io::model_identity(io::WeightFiles::open(model_dir)))) return std::nullopt;
    method::Importance importance = method::read_importance(dir / files::kImportance);
    return importance.method == probe_method(config) ? std::optional(std::move(importance)) : std::nullopt;
  } catch (const DataError&) {  // damaged: the run repeats the probe
  } catch (const Json::exception&) {
  }
  return std::nullopt;
}

std::string describe_step_cost(const model::ModelConfig& base, std::int64_t seq_len, std::span<const int> after,
                               const method::SelectionOptions& expand,
                               const std::optional<method::Importance>& importance) {
  const double full = model::full_step_flops(base, seq_len);
  const auto line = [&](std::string_view what, std::span<const int> layers) {
    const double cost = model::copies_step_flops(base, seq_len, layers);
    return fmt::format("{} {}: predicted {:.3g} GFLOP per token, {:.0f} % of training all parameters\n", what,
                       fmt::join(layers, ", "), 1e-9 * cost, 100 * cost / full);
  };
  std::string text = line(after.size() == 1 ? "copy after layer" : "copies after layers", after);
  const std::string strategy = expand.strategy.value_or(method::kLowestLayers);
  if (method::score_use(strategy) == method::ScoreUse::kLowest && strategy != method::kLowestLayers && importance) {
    method::SelectionOptions lowest = expand;
    lowest.strategy = method::kLowestLayers;
    const std::vector<int> lowest_layers = choose_layers(lowest, base, seq_len, importance);
    text += line(std::ranges::equal(lowest_layers, after) ? "the lowest layers are the same:"
                                                          : "for comparison, the lowest layers",
                 lowest_layers);
  }
  return text;
}

}  // namespace adept::run
