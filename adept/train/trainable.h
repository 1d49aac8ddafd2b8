// The trained tensors of a model: fp32 masters, which the forward pass reads, and their gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adept/model/decoder.h"
#include "adept/optim/adamw.h"

namespace adept::train {

/// A tensor to train.
struct TrainedTensor {
  std::string name;            ///< unique; used in checkpoints and for rates
  std::int64_t layer = -1;     ///< -1: outside the layers
  at::Tensor* slot = nullptr;  ///< slot from which the decoder reads it
  at::Tensor master;           ///< initial value, fp32, on the decoder's device
};

/// Makes tensors of a decoder trainable and keeps everything else frozen.
///
/// The decoder reads the masters directly (in bf16 only matrices, which nn::linear converts), and autograd's gradients
/// are those of the step. For vectors it has bf16 copies, whose gradients are added to fp32 ones after every
/// micro-batch. Gradients take memory from the backward pass, which frees activations, to the end of the step.
class Trainable {
 public:
  /// Replaces the slots of `tensors`, which are in decoder.weights(). A repeated name or slot is an InternalError.
  Trainable(model::Decoder& decoder, std::vector<TrainedTensor> tensors);

  /// Name and master of every trained tensor.
  const std::vector<optim::Parameter>& parameters() const { return parameters_; }
  /// Their fp32 gradients, in the same order; undefined before collect_gradients() and after drop_gradients().
  const std::vector<at::Tensor>& gradients() const { return gradients_; }
  /// Index of the lowest layer with a trained tensor, or their number; below it, no graph is needed unless the
  /// embeddings train, or rows of them that are read (nn::TrainedRows).
  std::int64_t lowest_layer() const { return lowest_layer_; }
  /// Likewise with the embeddings: 0 if they train, or rows of them.
  std::int64_t lowest_of_any_graph() const { return trains_embeddings_ || trains_rows_ ? 0 : lowest_layer_; }
  /// As a whole.
  bool trains_embeddings() const { return trains_embeddings_; }
  std::int64_t num_parameters() const;

  /// Tensors that the decoder reads and autograd gives gradients, in the same order.
  const std::vector<at::Tensor>& leaves() const { return leaves_; }
  /// Whether autograd adds the gradients of all micro-batches in fp32, so that collect_gradients() only takes them.
  bool accumulates_in_place(std::size_t i) const { return leaves_[i].is_alias_of(parameters_[i].master); }

  /// Adds the results of the last backward pass to the gradients; unreached tensors get zero.
  void collect_gradients();
  /// Instead of collected ones; an undefined one becomes zero.
  void set_gradients(std::vector<at::Tensor> gradients);
  void drop_gradients();
  /// Updates the decoder's copies of changed masters.
  void publish();

 private:
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> gradients_;
  std::vector<at::Tensor> leaves_;  // tensors that the decoder reads, in the order of parameters_
  std::int64_t lowest_layer_ = 0;
  bool trains_embeddings_ = false, trains_rows_ = false;
};

/// Identifies the frozen tensors: the hash of the weight files, the dtype, and which tensors and rows train. Reads
/// nothing, because the files were already hashed.
std::string frozen_hash(const std::string& weights_hash, const model::Decoder& decoder, const Trainable& trainable);

/// Verifies that the program does not write to frozen tensors. Most are mapped read-only, so a stray write ends the
/// process, and any write through ATen raises the tensor's version. FrozenBits finds other changes.
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
