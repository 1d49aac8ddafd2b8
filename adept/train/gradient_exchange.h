// Adds the gradients of a global batch over the processes of a job.
//
// Micro-batch m of a step belongs to rank m % size. Each rank accumulates the gradients of its own micro-batches. In
// its last backward pass the sums over the ranks start as soon as gradients are complete, from the last layers to the
// first, so that they overlap with the rest of the pass. Deterministic: the gradients of each micro-batch are gathered
// and added in the order of micro-batches, as one process adds them, so that every number of processes gives the same
// bits. Those of layers that are divided go through GradientScatter after each micro-batch.
#pragma once

#include <cstddef>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/train/gradient_scatter.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// Indices of the parameters whose gradients are added together, from the last one to the first. A bucket of several is
/// sent from a copy, a single gradient from where it is.
std::vector<std::vector<std::size_t>> gradient_buckets(const Trainable& trainable);

class GradientExchange {
 public:
  /// For one step, which starts without gradients. `on_sent` is for GradientScatter.
  GradientExchange(Trainable& trainable, dist::ProcessGroup& group, bool deterministic,
                   GradientScatter::OnSent on_sent = {});
  ~GradientExchange();
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  /// Call before each backward pass of this rank, in a round in which the first `num_counting` ranks have a
  /// micro-batch. `sends_early`: it is the last pass, and gradients may be sent before it ends.
  void begin_pass(int num_counting, bool sends_early);
  /// Call after it.
  void end_pass() { scatter_.end_pass(); }
  /// Call after each round of `size` micro-batches. `has_own`: one was of this rank; the last round may have fewer.
  void end_round(bool has_own);
  /// Call after the last round. trainable.gradients() are then those of the global batch, the same on every rank.
  void finish();

 private:
  class Hook;
  /// Tensors that are added together.
  struct Bucket {
    std::vector<std::size_t> indices;  // of parameters
    std::size_t num_ready = 0;
    bool started = false;
    at::Tensor sum;  // a gradient, or a copy of several
    dist::Pending pending{};
  };

  void make_buckets();
  void on_ready(std::size_t index);
  void start(Bucket& bucket);
  at::Tensor gradient(std::size_t index) const;
  void add_in_order();

  Trainable& trainable_;
  dist::ProcessGroup& group_;
  GradientScatter scatter_;
  bool in_order_;  // only with several ranks
  bool sends_early_ = false;
  std::vector<Bucket> buckets_;         // in the order of their sums, which is that of every rank
  std::vector<std::size_t> bucket_of_;  // of each parameter
  std::size_t next_ = 0;                // bucket
  std::vector<at::Tensor> sums_;        // in_order_: of the rounds so far
};

}  // namespace adept::train
