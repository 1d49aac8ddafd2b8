// Where a decoder's layers get their tensors from, if these are not always in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace adept::model {

/// What this process always has of a tensor whose elements, as they follow one another, several processes divide.
struct Piece {
  std::vector<std::int64_t> bounds;  ///< rank r has the elements bounds[r] .. bounds[r + 1] - 1
  at::Tensor values;                 ///< (n) of this rank, in the tensor's type
};

/// Provides the tensors of layers when a pass needs them. Those of the layer of the last call of fetch() are readable;
/// reading another one's is an error of ATen's, or gives wrong values. Several processes may share the work: then each
/// makes the same calls in the same order.
class LayerSource {
 public:
  virtual ~LayerSource() = default;

  /// Makes the tensors of layer l readable, and begins to fetch those of the next one that is not in memory: upwards
  /// (+1), downwards (-1), or none (0).
  virtual void fetch(std::int64_t l, int direction) = 0;

  /// Whether `tensor` is one of those that it provides.
  virtual bool provides(const at::Tensor& tensor) const = 0;
  /// The piece of such a tensor, of which changes are allowed, followed by changed() on every process.
  virtual Piece piece(const at::Tensor& tensor) const = 0;
  virtual void changed() = 0;
  /// The bytes of layer l that this process always has and that never change, for checks; undefined if there are none.
  virtual at::Tensor kept(std::int64_t l) const = 0;
  /// Memory of this process for all that it provides.
  virtual std::int64_t num_bytes() const = 0;
  /// For the log: what it saves, and what it costs for passes over all layers and back to layer `lowest`; only over
  /// them if that is the number of layers.
  virtual std::string describe(std::int64_t lowest) const = 0;
};

}  // namespace adept::model
