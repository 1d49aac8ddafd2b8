// First-order estimate of how a copy after each layer improves the domain loss and changes the general loss: the
// importance method `gain`. It uses domain text, whereas the paper's methods use only general text.
//
// The residual outputs of an identity copy after layer l have no effect, and only they have a gradient. One forward and
// one backward pass on domain text and one on general text give both losses' gradients with respect to them for every l
// at once. With g the domain gradient and q the general one, a first step of size s
//   like SGD's, -s g,        lowers the domain loss by s |g|_2^2,
//   like Adam's, -s sign(g), lowers it by s |g|_1, and changes the general loss by -s <sign(g), q>.
#pragma once

#include <array>
#include <span>

#include "adept/method/importance.h"

namespace adept::method {

inline constexpr char kFirstOrderImprovement[] = "gain";

/// Figures of a layer: its score |g|_1; |g|_2; -<sign(g), q> (negative is better); and the cosine between g and q: 1 if
/// both texts agree, -1 if they oppose.
inline constexpr std::array kImprovementFigures = {
    Figure{"l1", "improvement (L1)", false, 17, 4}, Figure{"l2", "improvement (L2)", false, 17, 4},
    Figure{"general_change", "general", true, 14, 4}, Figure{"cosine", "cosine", true, 8, 3}};
inline constexpr char kImprovementFiguresMeaning[] =
    "estimated effect of a copy after each layer (first order): how much a step along the sign of the domain "
    "gradient\nlowers the domain loss (improvement), and how it changes the general loss";

/// baseline_loss, tokens and sequences refer to the domain. Keeps both gradients of every layer's residual outputs in
/// fp32; the processes of `group` divide the layers of which they keep them. They also divide the batches; gradients
/// are added in the order of the batches, so every process gets the same bits. The decoder does not change. Throws
/// DataError if a text has no token to predict, NonFiniteError if a gradient is not finite.
Importance first_order_improvement(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                                   std::span<const ProbeBatch> domain, const Tick& tick,
                                   dist::ProcessGroup& group = dist::world());

}  // namespace adept::method
