#include "adept/method/unit_rates.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "adept/core/error.h"
#include "adept/method/beyond/unit_rate_options.h"

namespace adept::method {
namespace {

// ---- w_u = 2 (I_max - I_u) / (I_max - I_min), 1 where all are equal: the paper's 2 (1 - I_u) with I scaled to [0, 1]
// (ADEPT, section 3.3).

UnitValues reference_weights(const std::vector<Unit>& units, const UnitValues& importance, double) {
  UnitValues weights = distance_to_top(units, importance, 0.5);
  for (auto& [unit, weight] : weights) weight *= 2;
  return weights;
}

// ---- w_u = 1: plain AdamW on what trains.

UnitValues uniform_weights(const std::vector<Unit>& units, const UnitValues&, double) {
  UnitValues weights;
  for (const Unit& unit : units) weights[unit.name] = 1;
  return weights;
}

constexpr std::array kPolicies = {
    UnitLrPolicy{"reference", "2 (I_max - I) / (I_max - I_min)", reference_weights},
    UnitLrPolicy{kUniformRates, "1", uniform_weights, /*uses_importance=*/false},
    // Ours.
    UnitLrPolicy{"normalized", kNormalizedFormula, normalized_weights, /*uses_importance=*/true, /*default_ema=*/0.5},
};

const UnitLrPolicy& policy_of(std::string_view name) {
  const auto found = std::find_if(kPolicies.begin(), kPolicies.end(), [&](const auto& p) { return p.name == name; });
  ADEPT_CHECK(found != kPolicies.end(), "there is no policy {}", name);
  return *found;
}

}  // namespace

std::span<const UnitLrPolicy> all_unit_lr_policies() { return kPolicies; }

std::vector<std::string> unit_lr_policies() {
  std::vector<std::string> names;
  for (const UnitLrPolicy& policy : kPolicies) names.emplace_back(policy.name);
  return names;
}

std::string unit_lr_policy_meanings(std::string_view separator) {
  std::string text;
  for (const UnitLrPolicy& policy : kPolicies)
    text += fmt::format("{}{}: {}", text.empty() ? "" : separator, policy.name, policy.formula);
  return text;
}

bool uses_unit_importance(std::string_view policy) { return policy_of(policy).uses_importance; }

double default_ema(std::string_view policy) { return policy_of(policy).default_ema; }

std::string default_ema_text() {
  std::string text;
  for (const UnitLrPolicy& policy : kPolicies)
    if (policy.default_ema != 0) text += fmt::format("{:g} with policy: {}, ", policy.default_ema, policy.name);
  return text + "else 0";
}

UnitValues unit_lr_weights(std::string_view policy, const std::vector<Unit>& units, const UnitValues& importance,
                           double floor) {
  ADEPT_CHECK(!units.empty(), "no units");
  return policy_of(policy).weights(units, importance, floor);
}

UnitValues distance_to_top(const std::vector<Unit>& units, const UnitValues& importance, double if_equal) {
  double lowest = importance.at(units.front().name), highest = lowest;
  for (const Unit& unit : units) {
    lowest = std::min(lowest, importance.at(unit.name));
    highest = std::max(highest, importance.at(unit.name));
  }
  UnitValues distances;
  for (const Unit& unit : units)
    distances[unit.name] = highest > lowest ? (highest - importance.at(unit.name)) / (highest - lowest) : if_equal;
  return distances;
}

}  // namespace adept::method
