// What a rank needs in memory to send and to receive, beside what it keeps: none if it is alone.
#pragma once

#include <cstdint>

#include "adept/plan/layout.h"

namespace adept::plan {

/// How ranks communicate.
struct Communication {
  bool by_gloo = false;           ///< CPUs: it gathers into a copy, which exists until all parts are there
  bool is_deterministic = false;  ///< dist.deterministic
};

/// Bytes. The layout must outlive it. What NCCL and Gloo allocate by themselves is not in it.
class Buffers {
 public:
  Buffers(const Layout& layout, const Communication& communication) : layout_(layout), how_(communication) {}

  /// Of the divided layer that is gathered while layer l is computed, forward or backward, beside the buffers of two.
  double of_gathered_layer(std::int64_t l, bool is_backward) const;
  /// Of gradients of a layer that are sent from a copy, up to the end of the step.
  double of_sent_gradients(std::int64_t layer) const;
  /// Of a divided layer whose gradients are exchanged: as they are sent, and as they are received.
  double of_scattered_gradients(std::int64_t layer) const;
  /// Of gradients of a layer, or of all, whose sums over the ranks are beside those of a micro-batch.
  double of_sums(std::int64_t layer) const;
  double of_all_sums() const;
  /// To make these sums: a gradient of all ranks, one tensor after the other.
  double of_gathered_gradients() const;
  /// For the updated weights: the parts of all ranks, and the own one.
  double of_weights() const;

 private:
  bool has_sums() const { return layout_.ranks() > 1 && how_.is_deterministic; }
  double gathered(double bytes) const { return how_.by_gloo ? 2 * bytes : bytes; }

  const Layout& layout_;
  Communication how_;
};

}  // namespace adept::plan
