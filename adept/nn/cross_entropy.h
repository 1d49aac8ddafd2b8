// The vocabulary projection and next-token cross-entropy in one, so that no tensor of (tokens x vocabulary) ever
// exists: a frozen head goes block by block over the vocabulary, a trained one chunk by chunk over tokens.
//
// Legend: N tokens (any leading shape), D model width, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include "adept/nn/token_ids.h"
#include "adept/nn/trained_rows.h"

namespace adept::nn {

/// Sum over the positions with a target of -log softmax(hidden head^T)[target], in nats: a scalar in fp32 (fp64 for
/// fp64 inputs). Divide by the number of targets to get the mean.
///
/// hidden (..., D), head (V, D), targets (...) in 0 .. V-1 or kIgnoreIndex, on the device of `hidden`. Only positions
/// with a target go through the vocabulary GEMM. The head may be stored in another type than hidden's, as a weight of
/// linear(); a frozen one is converted block by block on the CPU. Logits are rounded to the dtype of `hidden`, the rest
/// is fp32. Differentiable once with respect to hidden and head; whichever gradient is needed is computed in the
/// forward pass, the head's is accumulated in fp32. The same for the `trained` rows of a frozen head. With a soft cap
/// the loss is that of soft_capped() logits. Throws DataError if a target is outside the vocabulary. `token_losses`, if
/// given, gets what linear_cross_entropy_per_token() returns.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets,
                                double soft_cap = 0, at::Tensor* token_losses = nullptr,
                                const TrainedRows& trained = {});

/// The loss of each position, in the shape of `targets`, fp32, 0 where there is no target. Never builds a graph.
at::Tensor linear_cross_entropy_per_token(const at::Tensor& hidden, const at::Tensor& head, const Targets& targets,
                                          double soft_cap = 0, const TrainedRows& trained = {});

/// soft_cap tanh(x / soft_cap), in fp32 and rounded once; x itself where soft_cap is 0.
at::Tensor soft_capped(const at::Tensor& x, double soft_cap);

/// Tokens whose logits a trained head has at a time, of `num_tokens`. Chunks are of equal size, up to rounding.
std::int64_t head_chunk_tokens(std::int64_t num_tokens, std::int64_t vocab_size);

}  // namespace adept::nn
