// From the configuration to the layers that get copies.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/method/beyond/scores.h"
#include "adept/model/config.h"

namespace adept::run {

/// How many layers are chosen (each may get several copies). Throws ConfigError for a budget that no number meets.
int num_copied_layers(const method::SelectionOptions& expand, const model::ModelConfig& base);

/// Throws ConfigError, naming the key, for a choice that the model cannot give: more layers than there are, layers that
/// do not exist, a budget that is too small. `where` names the model.
void check_expansion(const method::SelectionOptions& expand, const model::ModelConfig& base, const std::string& where);

/// The layers, ascending, each as often as it gets a copy. Throws ConfigError.
std::vector<int> choose_layers(const method::SelectionOptions& expand, const model::ModelConfig& base,
                               std::int64_t seq_len, const std::optional<method::Importance>& importance);

/// A line on what a step will cost by the floating point operations that it takes; where the choice went by cost,
/// another on the lowest layers, which it left.
std::string describe_step_cost(const model::ModelConfig& base, std::int64_t seq_len, std::span<const int> after,
                               const method::SelectionOptions& expand,
                               const std::optional<method::Importance>& importance);

}  // namespace adept::run
