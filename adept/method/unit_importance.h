// The importance of units for general skill (ADEPT, section 3.3).
#pragma once

#include <span>
#include <vector>

#include "adept/core/progress.h"
#include "adept/dist/process_group.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/method/units.h"
#include "adept/model/frozen_prefix.h"

namespace adept::method {

/// I_u = mean over elements i of |theta_i| * mean over batches of |g_i|, g the gradient of the batch's mean loss on
/// general text; batches are weighted by their predicted tokens, sources by data.general.N.weight.
///
/// A copy that is still an identity has gradients only in its residual outputs, whose effect is zero, so every score
/// would be 0. Its units use the scores of its source layer instead. Gradients are in separate buffers: no gradient,
/// moment or parameter changes. The processes of `group` divide the batches; each gets the same values, which do not
/// depend on how many they are. Throws DataError if no token is predicted, NonFiniteError if a score is not finite.
UnitValues unit_importance(const Expansion& expansion, const std::vector<Unit>& units, const model::FrozenPrefix& model,
                           const std::vector<ProbeBatch>& batches, Progress& progress,
                           dist::ProcessGroup& group = dist::world());

}  // namespace adept::method
