// Selects the layers to copy from the configuration.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/method/beyond/scores.h"
#include "adept/model/config.h"

namespace adept::run {

/// The number of selected layers (each may get several copies). Throws ConfigError if no number fits the budget.
int num_copied_layers(const method::SelectionOptions& expand, const model::ModelConfig& base);

/// Throws ConfigError with the key for options that the model cannot satisfy: too many layers, layers that do not
/// exist, a budget that is too small. `where` names the model.
void check_expansion(const method::SelectionOptions& expand, const model::ModelConfig& base, const std::string& where);

/// The layers, ascending, repeated per copy. Throws ConfigError.
std::vector<int> choose_layers(const method::SelectionOptions& expand, const model::ModelConfig& base,
                               std::int64_t seq_len, const std::optional<method::Importance>& importance);

/// The scores in output_dir, if a run with the same model and options has finished its probe there; texts are not
/// compared.
std::optional<method::Importance> finished_probe(const config::RunConfig& config,
                                                 const std::filesystem::path& model_dir);

/// A line with the predicted floating point operations of a step; for a strategy that selects others than the lowest of
/// the low scores, another line for the lowest layers.
std::string describe_step_cost(const model::ModelConfig& base, std::int64_t seq_len, std::span<const int> after,
                               const method::SelectionOptions& expand,
                               const std::optional<method::Importance>& importance);

}  // namespace adept::run
