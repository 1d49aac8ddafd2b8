// The layers of a model, divided over the processes of a job, as in ZeRO-3 (arXiv 1910.02054). Frozen layers are only
// gathered. Where all layers train, each rank also updates its parts, of gradients that GradientScatter adds.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/io/weight_files.h"
#include "adept/model/decoder.h"
#include "adept/model/layer_source.h"
#include "adept/model/load.h"

namespace adept::train {

/// Whether a parameter of the model trains itself.
using Trains = std::function<bool(const model::Parameter&)>;

/// Each rank holds one of N equal parts of every layer's tensors, as their bytes follow one another, in the type that
/// the decoder reads. A layer is gathered into one of two buffers while the one before is computed, and stays there
/// until the buffer is needed for another layer. The tensors are the same objects all the time, so that a graph may
/// keep them: only their memory comes and goes.
class ShardedLayers : public model::LayerSource {
 public:
  /// Of layers of `model` that are computed in `compute`.
  ShardedLayers(dist::ProcessGroup& group, const model::ModelConfig& model, const Trains& trains,
                at::ScalarType compute);
  /// For a plan of `size` ranks: fetch() is not called.
  ShardedLayers(int size, const model::ModelConfig& model, const Trains& trains, at::ScalarType compute);

  /// Replaces tensors of layer l, which have values on this rank's device, by tensors without memory: those that are
  /// frozen; where no layer has one, all. Layers come in any order, each once, before reserve().
  void take(std::int64_t l, std::span<const model::Parameter> parameters, const Trains& trains);

  /// Makes the buffers. Call before the first fetch().
  void reserve();

  void fetch(std::int64_t l, int direction) override;
  bool provides(const at::Tensor& tensor) const override { return layer_of(tensor) != nullptr; }
  model::Piece piece(const at::Tensor& tensor) const override;
  void changed() override;
  at::Tensor kept(std::int64_t l) const override {
    return all_train_ ? at::Tensor() : layers_[static_cast<std::size_t>(l)].part;
  }
  std::int64_t num_bytes() const override;
  std::string describe(std::int64_t lowest) const override;

  /// Whether layer l has tensors that are divided.
  bool is_sharded(std::int64_t l) const { return layers_[static_cast<std::size_t>(l)].bytes > 0; }
  /// Bytes of the largest layer, which each of the two buffers has.
  std::int64_t largest_layer_bytes() const;
  /// Bytes of all tensors that were taken, as one process holds them.
  std::int64_t whole_bytes() const;
  /// Bytes that a rank receives for one pass over the layers from `lowest` on.
  std::int64_t bytes_received(std::int64_t lowest) const;
  /// Bytes of gradients that a rank receives from the others for each micro-batch of every rank.
  std::int64_t gradient_bytes_received() const;

 private:
  static constexpr std::int64_t kNone = -1;
  struct Layer {
    c10::Storage storage;    // of all tensors of the layer; without memory unless they are in a buffer
    at::Tensor part;         // (bytes) uint8: this rank's
    std::int64_t bytes = 0;  // of all parts
  };
  struct Buffer {
    at::Tensor memory;  // (bytes) uint8, for the largest layer
    std::int64_t layer = kNone;
    dist::Pending gathering;
  };
  std::vector<at::Tensor*> divided(std::span<const model::Parameter> parameters, const Trains& trains) const;
  const Layer* layer_of(const at::Tensor& tensor) const;
  std::int64_t next_of(std::int64_t l, int direction) const;
  Buffer* buffer_of(std::int64_t l);
  void empty(Buffer& buffer);
  void start(std::int64_t l, Buffer& buffer);

  dist::ProcessGroup* group_ = nullptr;
  int rank_ = 0, size_ = 1;
  bool all_train_;  // the parameters of layers
  at::ScalarType compute_;
  std::vector<Layer> layers_;
  std::array<Buffer, 2> buffers_;
};

/// load_decoder(), with divided layers. While it loads, a rank has one whole layer.
model::Decoder load_sharded(const std::filesystem::path& model_dir, const io::WeightFiles& files,
                            model::LoadOptions options, const Trains& trains,
                            dist::ProcessGroup& group = dist::world());

/// The same with the parameters of all layers divided: a model that does not train.
model::Decoder load_sharded(const std::filesystem::path& model_dir, const model::LoadOptions& options,
                            dist::ProcessGroup& group = dist::world());

}  // namespace adept::train
