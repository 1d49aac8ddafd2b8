// What a copy behind each layer would gain at once in the domain, and do to the general loss. This criterion is ours,
// not the paper's: it looks at the domain, where importance looks at general skill alone.
//
// In an identity copy behind layer l the residual outputs have no effect, and only these get a gradient. One forward
// and one backward pass on domain text and one on general text give both losses' gradients with respect to them for
// every l at once. With g the domain gradient and q the general one, a first step of size s
//   like SGD's, -s g,        lowers the domain loss by s |g|_2^2,
//   like Adam's, -s sign(g), lowers it by s |g|_1, and changes the general loss by -s <sign(g), q>.
#pragma once

#include <vector>

#include "adept/core/progress.h"
#include "adept/method/samples.h"

namespace adept::method {

/// To first order, for a copy behind one layer.
struct LayerGain {
  double l1 = 0;              ///< |g|_1: what a step of sign(g) gains in the domain, per unit of its size
  double l2 = 0;              ///< |g|_2
  double general_change = 0;  ///< -<sign(g), q>: change of the general loss under that step; negative is better
  double cosine = 0;          ///< between g and q: 1 where both texts want the same, -1 the opposite
};

struct Gain {
  double domain_loss = 0;                              ///< nats per token, sources weighing the same
  double general_loss = 0;                             ///< nats per token, sources weighing the same
  std::int64_t domain_tokens = 0, general_tokens = 0;  ///< predicted
  std::int64_t domain_sequences = 0, general_sequences = 0;
  std::vector<LayerGain> layers;  ///< by index in the base model
};

/// Holds both gradients of every layer's residual outputs in fp32. The decoder is left as it was. Throws DataError
/// if there is no token to predict in one of the texts, NonFiniteError if a gradient is not finite.
Gain expansion_gain(const model::Decoder& decoder, const std::vector<ProbeBatch>& domain,
                    const std::vector<ProbeBatch>& general, Progress& progress);

}  // namespace adept::method
