// The importance of units for general skill (ADEPT, section 3.3).
#pragma once

#include <span>
#include <vector>

#include "adept/core/progress.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/units.h"
#include "adept/model/frozen_prefix.h"

namespace adept::method {

/// I_u = mean over elements i of |theta_i| * mean over batches of |g_i|, g the gradient of the batch's mean loss on
/// general text; batches weigh by their predicted tokens, sources the same.
///
/// A copy that is still the identity has no gradient but in its residual outputs, and their effect is zero: every score
/// would be 0. Such a copy's units take the scores of its source layer, of which it is a copy. Gradients live in
/// buffers of their own: no gradient, moment or parameter changes. Throws DataError if no token is predicted,
/// NonFiniteError if a score is not finite.
UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress);

/// Exponential moving average over probes: keep * before + (1 - keep) * now; `now` where there is no `before`.
UnitValues smoothed(const UnitValues& before, const UnitValues& now, double keep);

}  // namespace adept::method
