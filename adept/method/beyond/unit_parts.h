// Units finer than the paper's: the parts of a tensor that belong to an attention head or to a block of neurons.
#pragma once

#include <cstdint>
#include <vector>

#include "adept/method/units.h"

namespace adept::method {

/// Slices of a parameter in one unit, along its Slices::dim; 0: the parameter is not split.
std::int64_t slices_per_unit(const model::Parameter& parameter, const UnitGranularity& granularity);

/// The parts of `whole`, the unit of the whole parameter, of `num_slices` slices each; the last one of each matrix may
/// have fewer. Names count on through the matrices that are stored in one parameter.
std::vector<Unit> parts_of(const Unit& whole, const model::Parameter& parameter, std::int64_t num_slices);

}  // namespace adept::method
