// Gradients of a loss with respect to the parameters of chosen layers, one layer at a time from the top down.
//
// Only the activations at layer boundaries are kept; each layer is computed again for its backward pass. So the memory
// is that of one layer, however many are asked for, and gradients never touch a parameter's own .grad.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "adept/model/batch.h"
#include "adept/model/decoder.h"
#include "adept/model/frozen_prefix.h"

namespace adept::model {

/// One layer: its parameters and their gradients in the same order, and the tensors that pass through it. All in the
/// compute dtype. B sequences, T tokens, D hidden_size.
struct LayerGradients {
  int layer = 0;
  std::span<const Parameter> parameters;
  std::span<const at::Tensor> gradients;
  at::Tensor input;            ///< h_l (B, T, D)
  at::Tensor output;           ///< h_{l+1} (B, T, D)
  at::Tensor output_gradient;  ///< dL/dh_{l+1} (B, T, D)
};
using LayerGradientVisitor = std::function<void(const LayerGradients&)>;

/// Visits `layers` (ascending, not empty) of the gradient of the batch's mean loss (nats per predicted token), highest
/// first, and returns that loss. The decoder is left as it was. A batch without targets is an InternalError.
double visit_layer_gradients(const FrozenPrefix& model, const Batch& batch, std::span<const int> layers,
                             const LayerGradientVisitor& visit);

/// The same without the parameters' gradients, which are half of the work: `parameters` and `gradients` are empty.
double visit_output_gradients(const FrozenPrefix& model, const Batch& batch, std::span<const int> layers,
                              const LayerGradientVisitor& visit);

/// The decoder's tensors with new autograd identities, so the originals are not affected.
Decoder detached_decoder(const Decoder& decoder);

}  // namespace adept::model
