// What a copy behind each layer would gain at once in the domain, and do to the general loss: the importance method
// `gain`. It looks at the domain, where the paper's look at general skill alone.
//
// In an identity copy behind layer l the residual outputs have no effect, and only these get a gradient. One forward
// and one backward pass on domain text and one on general text give both losses' gradients with respect to them for
// every l at once. With g the domain gradient and q the general one, a first step of size s
//   like SGD's, -s g,        lowers the domain loss by s |g|_2^2,
//   like Adam's, -s sign(g), lowers it by s |g|_1, and changes the general loss by -s <sign(g), q>.
#pragma once

#include <array>
#include <span>

#include "adept/method/importance.h"

namespace adept::method {

inline constexpr char kFirstOrderGain[] = "gain";

/// Of a layer, beside its score |g|_1: that again; |g|_2; -<sign(g), q>, negative being better; and the cosine between
/// g and q: 1 where both texts want the same, -1 the opposite.
inline constexpr std::array kGainFigures = {
    Figure{"l1", "gain (L1)", false, 12, 4}, Figure{"l2", "gain (L2)", false, 12, 4},
    Figure{"general_change", "general", true, 14, 4}, Figure{"cosine", "cosine", true, 8, 3}};
inline constexpr char kGainFiguresMeaning[] =
    "estimated effect of a copy after each layer (first order): how much a step along the sign of the domain "
    "gradient\nlowers the domain loss (gain), and how it changes the general loss";

/// baseline_loss, tokens and sequences are those of the domain. Holds both gradients of every layer's residual outputs
/// in fp32. The decoder is left as it was. Throws DataError if there is no token to predict in one of the texts,
/// NonFiniteError if a gradient is not finite.
Importance first_order_gain(const model::Decoder& decoder, std::span<const ProbeBatch> general,
                            std::span<const ProbeBatch> domain, const Tick& tick);

}  // namespace adept::method
