// Units of the expanded layers, their importance for general skill, and the learning rate that follows from it
// (ADEPT, sections 3.3 and 3.4).
//
// A unit is one named tensor of an expanded layer. The units partition what is trained: disjoint and complete.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/progress.h"
#include "adept/method/expansion.h"
#include "adept/method/samples.h"
#include "adept/model/decoder.h"

namespace adept::method {

/// A value per unit, keyed by the parameter's name in the expanded model.
using UnitValues = std::map<std::string, double>;

/// Names of all units of the expanded layers, in the order of the computation.
std::vector<std::string> unit_names(const Expansion& expansion, const model::Decoder& decoder);

/// I_u = mean over elements i of |theta_i| * mean over batches of |g_i|, g the gradient of the batch's mean loss on
/// general text; batches weigh by their predicted tokens, sources the same.
///
/// A copy that is still the identity has no gradient but in o_proj and down_proj, and these are zero: every score would
/// be 0. Such a copy's units take the scores of its source layer, of which it is a copy. Gradients live in buffers of
/// their own: no gradient, moment or parameter changes. Throws DataError if no token is predicted,
/// NonFiniteError if a score is not finite.
UnitValues unit_importance(const Expansion& expansion, const model::Decoder& decoder,
                           const std::vector<ProbeBatch>& batches, Progress& progress);

/// How a unit's rate follows from its importance. The rate of unit u at step t is base_lr * schedule(t) * w_u.
enum class UnitLrPolicy {
  kReference,  ///< w_u = 2 (I_max - I_u) / (I_max - I_min), 1 where the range is 0; the paper's 2 (1 - I_u) with I in
               ///< [0, 1]
  kUniform,    ///< w_u = 1: plain AdamW on the expanded layers
};

/// "reference", "uniform".
std::string_view to_string(UnitLrPolicy policy);

/// w_u of every unit.
UnitValues unit_lr_weights(UnitLrPolicy policy, const UnitValues& importance);

}  // namespace adept::method
