// The trained tensors of a model: what the forward pass reads, fp32 masters of which each process of a job has its
// part, and gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/model/decoder.h"
#include "adept/model/layer_source.h"
#include "adept/optim/adamw.h"
#include "adept/optim/shard.h"

namespace adept::train {

/// A tensor to train.
struct TrainedTensor {
  std::string name;                       ///< unique; used in checkpoints and for rates
  std::int64_t layer = -1;                ///< -1: outside the layers
  at::Tensor* slot = nullptr;             ///< slot from which the decoder reads it
  std::function<at::Tensor()> initial{};  ///< its whole value, fp32, on the decoder's device; of its own
};

/// Makes tensors of a decoder trainable and keeps everything else frozen.
///
/// The decoder reads leaves, whose gradients autograd adds in fp32 over the micro-batches of a step.
///   - One process: a leaf is the fp32 master itself. In bf16, vectors have a bf16 copy; nn::linear converts matrices.
///   - Several: a leaf is in the compute dtype, embedding and head in fp32. This rank updates rows of the master, which
///     in fp32 are memory of the leaf, and publish() gathers the leaf (ZeRO-1).
///   - Layers that are divided (model::LayerSource): a leaf is in memory only while it is needed. The master is the
///   piece
///     that this rank keeps, or its fp32 values. GradientScatter adds gradients, of which this rank has its part.
/// Gradients take memory from the backward pass, which frees activations, to the end of the step.
class Trainable {
 public:
  /// Replaces the slots of `tensors`, which are in decoder.weights(). A repeated name or slot is an InternalError.
  Trainable(model::Decoder& decoder, std::vector<TrainedTensor> tensors, optim::RankOf process = this_process());
  static optim::RankOf this_process() { return {dist::world().rank(), dist::world().size()}; }

  /// Name, and this rank's part of the master, of every trained tensor.
  const std::vector<optim::Parameter>& parameters() const { return parameters_; }
  /// Their fp32 gradients, in the same order: whole, or this rank's part if is_divided(); undefined before
  /// collect_gradients() and after drop_gradients().
  const std::vector<at::Tensor>& gradients() const { return gradients_; }
  /// This rank's part of each.
  std::vector<at::Tensor> own_gradients() const;
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
  /// The layer of each, or -1.
  std::int64_t layer_of(std::size_t i) const { return layers_[i]; }
  /// Whether the layer of this tensor is divided over the processes of the job.
  bool is_divided(std::size_t i) const { return pieces_[i].defined(); }
  bool any_divided() const;
  /// Whether the master has memory of its own, beside what the decoder reads.
  bool has_own_master(std::size_t i) const;

  /// Takes what autograd has added; unreached tensors get zero.
  void collect_gradients();
  /// Instead of collected ones, of tensors that are not divided; an undefined one becomes zero.
  void set_gradients(std::vector<at::Tensor> gradients);
  /// Adds to the gradient of a divided tensor; (n), this rank's part.
  void add_to_gradient(std::size_t i, const at::Tensor& addend);
  void drop_gradients();
  /// Makes the leaves those of changed masters, on every rank.
  void publish(dist::ProcessGroup& group = dist::world());
  /// Makes a leaf that of a whole master, which the parameter has its part of already. Every rank calls it.
  void set_leaf(const std::string& name, const at::Tensor& master);

 private:
  void make_divided(const TrainedTensor& tensor, optim::RankOf process);
  void make_replicated(const TrainedTensor& tensor, optim::RankOf process);
  void add(const TrainedTensor& tensor, const at::Tensor& leaf, at::Tensor master, std::optional<optim::Shard> shard);

  at::ScalarType compute_;
  std::shared_ptr<model::LayerSource> source_;
  std::vector<optim::Parameter> parameters_;
  std::vector<at::Tensor> gradients_;
  // In the order of parameters_:
  std::vector<at::Tensor> leaves_;
  std::vector<at::Tensor> pieces_;  // of divided tensors
  std::vector<std::int64_t> layers_;
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
