// The units of the expanded layers (ADEPT, section 3.3): what has an importance and a learning rate of its own.
//
// A unit is one named tensor of an expanded layer, or, with the options of beyond/unit_parts.h, a part of it. The units
// partition what is trained: disjoint and complete.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "adept/method/expansion.h"
#include "adept/method/options.h"
#include "adept/model/decoder.h"

namespace adept::method {

/// A value per unit, keyed by its name.
using UnitValues = std::map<std::string, double>;

/// Slices begin .. end-1 of a tensor along `dim`.
struct Unit {
  std::string name;       ///< the parameter's name; for a part, with the suffix "/head.3" or "/block.3"
  std::string parameter;  ///< name in the expanded model
  std::int64_t dim = 0;   ///< 0: rows, 1: columns
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t elements = 0;  ///< of the slices
  bool is_matrix = true;      ///< false: part of a norm gain or a bias
  bool is_measured = true;    ///< false: it has no importance, and the factor 1 with every policy
};

/// The units of one parameter: itself, or its parts.
std::vector<Unit> units_of(const model::Parameter& parameter, const UnitGranularity& granularity);

/// All units of the expanded layers, in the order of the computation. Throws ConfigError for a block size that is more
/// than the model's intermediate_size.
std::vector<Unit> make_units(const Expansion& expansion, const model::Decoder& decoder,
                             const UnitGranularity& granularity = {});

/// InternalError unless the units of each parameter cover it from its first slice to its last, each once.
void check_partition(const std::vector<Unit>& units, const model::Decoder& decoder);

}  // namespace adept::method
