// The learning rate of each unit (ADEPT, section 3.3): base_lr * schedule(step) * w_u, lower for units that are more
// important for general skill.
//
// All policies are in one table in unit_rates.cpp. To add one, add a row and its function: the names in the
// configuration and help follow. Those that are ours are in beyond/.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "adept/method/units.h"

namespace adept::method {

/// How w_u depends on importance.
struct UnitLrPolicy {
  std::string_view name;     ///< as in the configuration, "reference"
  std::string_view formula;  ///< of w_u, for help
  /// w_u of every unit. A policy without importance gets empty values. `floor` is UnitLrOptions::floor.
  UnitValues (*weights)(const std::vector<Unit>& units, const UnitValues& importance, double floor);
  bool uses_importance = true;
  double default_ema = 0;  ///< UnitLrOptions::ema, if it is not set
};

std::span<const UnitLrPolicy> all_unit_lr_policies();

/// w_u of every unit by the policy of this name.
UnitValues unit_lr_weights(std::string_view policy, const std::vector<Unit>& units, const UnitValues& importance,
                           double floor = 0);

/// (I_max - I_u) / (I_max - I_min) of every unit: 0 for the most important one, 1 for the least; `if_equal` where all
/// are equally important.
UnitValues distance_to_top(const std::vector<Unit>& units, const UnitValues& importance, double if_equal);

}  // namespace adept::method
