// One training step: gradients of a global batch, clipping, one update.
//
// Legend: B sequences, T tokens, D hidden_size.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/model/batch.h"
#include "adept/model/frozen_prefix.h"
#include "adept/optim/adamw.h"
#include "adept/train/options.h"
#include "adept/train/trainable.h"

namespace adept::train {

struct StepResult {
  double loss = 0;                        ///< nats per predicted token of the whole global batch
  double grad_norm = 0;                   ///< before clipping
  std::int64_t num_targets = 0;           ///< predicted tokens
  bool finite = true;                     ///< false: loss or gradient was not finite, and nothing changed
  std::int64_t activation_bytes = 0;      ///< maximum kept by the graph of a micro-batch for its backward pass
  std::int64_t gradient_bytes = 0;        ///< size of the gradients at the end
  std::vector<double> sequence_losses{};  ///< nats, over the predicted tokens of each sequence, in order
  std::string difference{};               ///< between two computations of the gradients; then nothing changed
};

/// Batches of `batch_size` sequences on `device`; the last one may be smaller.
std::vector<model::Batch> to_micro_batches(std::span<const data::Sequence> sequences, std::int64_t batch_size,
                                           at::Device device);

/// How a step is divided over the processes of a job, which all have every micro-batch; number m belongs to rank
/// m % size. The result is the same on every rank. And whether it is verified.
struct StepDivision {
  dist::ProcessGroup* group = &dist::world();
  bool deterministic = false;           ///< see GradientExchange
  std::optional<std::uint64_t> seed{};  ///< of dropout in this step: micro-batch m uses seed + m
  bool is_verified = false;             ///< computes the gradients twice, and compares the bits
};

/// h_lowest (B, T, D) -> h_L (B, T, D) through the layers from `lowest` on, of which the backward pass recomputes what
/// `checkpointing` says.
at::Tensor through_layers(const model::Decoder& decoder, at::Tensor h, std::int64_t lowest,
                          const model::Context& context, ActivationCheckpointing checkpointing);

/// Mean loss of all micro-batches together and its gradient, left in trainable.gradients(): every predicted token has
/// the same weight, whatever its micro-batch. No graph is built below the lowest trained layer, whose input comes from
/// `model`, unless the embeddings of the micro-batch's tokens train. Checkpointed activations are recomputed in the
/// backward pass, with the same result bit for bit. The host waits for the device once, at the end.
///
/// A verified computation is done first without the cache of `model`, then with it; result.difference is difference_of
/// the two. On a GPU, it uses kernels that give the same bits each time where ATen has them.
StepResult compute_gradients(const model::FrozenPrefix& model, Trainable& trainable,
                             std::span<const model::Batch> micro_batches,
                             ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone,
                             const StepDivision& division = {});

/// compute_gradients, then one optimizer step with the given rates (by parameter name); then drops the gradients. A
/// step with a non-finite loss or gradient, with a difference, or without a token to predict, changes no parameter and
/// no moment.
StepResult train_step(const model::FrozenPrefix& model, Trainable& trainable, optim::AdamW& optimizer,
                      std::span<const model::Batch> micro_batches, const optim::ParameterRates& learning_rates,
                      double max_grad_norm, ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone,
                      const StepDivision& division = {});

}  // namespace adept::train
