// Units of the expanded layers, their importance for general skill, and the learning rate that follows from it
// (ADEPT, sections 3.3 and 3.4).
//
// A unit is one named tensor of an expanded layer, or, finer, the part of it that belongs to one attention head or to a
// block of feed-forward neurons. The units partition what is trained: disjoint and complete.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "adept/core/progress.h"
#include "adept/method/expansion.h"
#include "adept/method/options.h"
#include "adept/method/samples.h"
#include "adept/model/decoder.h"
#include "adept/model/frozen_prefix.h"

namespace adept::method {

/// A value per unit, keyed by its name.
using UnitValues = std::map<std::string, double>;

/// Slices begin .. end-1 of a tensor along `dim`.
struct Unit {
  std::string name;       ///< the parameter's; of a part with "/head.3" or "/block.3" behind it
  std::string parameter;  ///< name in the expanded model
  std::int64_t dim = 0;   ///< 0: rows, 1: columns
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t elements = 0;  ///< of the slices
  bool is_matrix = true;      ///< false: part of a norm gain or a bias
};

/// The units of one parameter: itself, or its parts. Names count on through the matrices that are stored in one.
std::vector<Unit> units_of(const model::Parameter& parameter, const UnitGranularity& granularity);

/// All units of the expanded layers, in the order of the computation. Throws ConfigError for a block size that is more
/// than the model's intermediate_size.
std::vector<Unit> make_units(const Expansion& expansion, const model::Decoder& decoder,
                             const UnitGranularity& granularity = {});

/// InternalError unless the units of each parameter cover it from its first slice to its last, each once.
void check_partition(const std::vector<Unit>& units, const model::Decoder& decoder);

/// I_u = mean over elements i of |theta_i| * mean over batches of |g_i|, g the gradient of the batch's mean loss on
/// general text; batches weigh by their predicted tokens, sources the same.
///
/// A copy that is still the identity has no gradient but in its residual outputs, and their effect is zero: every score
/// would be 0. Such a copy's units take the scores of its source layer, of which it is a copy. Gradients live in
/// buffers of their own: no gradient, moment or parameter changes. Throws DataError if no token is predicted,
/// NonFiniteError if a score is not finite.
UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress);

/// w_u of every unit. `floor` (0 .. 1) is kNormalized's.
UnitValues unit_lr_weights(UnitLrPolicy policy, const std::vector<Unit>& units, const UnitValues& importance,
                           double floor = 0);

/// Exponential moving average over probes: keep * before + (1 - keep) * now; `now` where there is no `before`.
UnitValues smoothed(const UnitValues& before, const UnitValues& now, double keep);

}  // namespace adept::method
