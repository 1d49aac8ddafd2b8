// The trained tensors of a model: fp32 masters, which the forward pass reads, and their gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"

namespace adept::train {

/// A tensor that is to train.
struct TrainedTensor {
  std::string name;            ///< unique; in checkpoints and for rates
  std::int64_t layer = -1;     ///< -1: outside the layers
  at::Tensor* slot = nullptr;  ///< where the decoder reads it
  at::Tensor master;           ///< its start, fp32, on the decoder's device
};

/// Makes tensors of a decoder trainable and keeps everything else frozen.
///
/// The decoder reads the masters themselves, in bf16 the matrices, which nn::linear converts, and autograd's gradients
/// are those of the step. Of vectors it has copies in bf16, whose gradients are added to fp32 ones after every
/// micro-batch. Gradients take memory from the backward pass on, when activations go, to the end of the step.
class Trainable {
 public:
  /// Replaces the slots of `tensors`, which are in decoder.weights(). A name or slot that repeats is an InternalError.
  Trainable(model::Decoder& decoder, std::vector<TrainedTensor> tensors);

  /// Name and master of every trained tensor.
  const std::vector<optim::Parameter>& parameters() const { return parameters_; }
  /// Their fp32 gradients, in the same order; undefined before collect_gradients() and after drop_gradients().
  const std::vector<at::Tensor>& gradients() const { return gradients_; }
  /// Index of the lowest layer with a trained tensor, or their number; below it nothing needs a graph unless the
  /// embeddings train.
  std::int64_t lowest_layer() const { return lowest_layer_; }
  bool trains_embeddings() const { return trains_embeddings_; }
  std::int64_t num_parameters() const;

  /// Adds what the last backward pass left to the gradients; what it did not reach is zero.
  void collect_gradients();
  void drop_gradients();
  /// Shows changed masters to the decoder: copies of them.
  void publish();

 private:
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> gradients_;
  std::vector<at::Tensor> leaves_;  // what the decoder reads, in the order of parameters_
  std::int64_t lowest_layer_ = 0;
  bool trains_embeddings_ = false;
};

/// What the frozen tensors are: the weights that they were loaded from, in which type, and which of them train. Nothing
/// is read: the weights were hashed as files.
std::string frozen_hash(const std::string& weights_hash, const model::Decoder& decoder, const Trainable& trainable);

/// Watches that nothing writes to the tensors that do not train. Reading them all again would take minutes of each
/// checkpoint of a large model; but most are mapped from their files read-only, so that a stray write ends the process,
/// and whatever writes to a tensor through ATen raises its version.
class FrozenTensors {
 public:
  FrozenTensors(const model::Decoder& decoder, const Trainable& trainable);
  /// Throws InternalError, with the name, if a tensor was written to or replaced since construction.
  void verify() const;

 private:
  const model::Decoder& decoder_;
  std::map<std::string, std::pair<at::Tensor, std::int64_t>> seen_;  // with their versions
};

}  // namespace adept::train
