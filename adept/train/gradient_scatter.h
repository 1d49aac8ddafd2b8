// Adds the gradients of layers that are divided over the processes of a job: each rank gets the sums of its parts only
// (a reduce-scatter). What it receives is added in the order of ranks, so every number of processes gives the same
// bits.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "adept/dist/process_group.h"
#include "adept/train/trainable.h"

namespace adept::train {

class GradientScatter {
 public:
  /// Gets each gradient of this rank before it is sent.
  using OnSent = std::function<void(std::size_t index, const at::Tensor& gradient)>;

  /// For one step, which starts without gradients.
  GradientScatter(Trainable& trainable, dist::ProcessGroup& group, OnSent on_sent = {});
  GradientScatter(const GradientScatter&) = delete;
  GradientScatter& operator=(const GradientScatter&) = delete;

  /// Call before each backward pass, of which the first `num_counting` ranks count.
  void begin_pass(int num_counting);
  /// Call when autograd has accumulated a gradient. A layer whose gradients are there is sent while the layers below
  /// are computed; one layer is on its way at a time.
  void on_ready(std::size_t index);
  /// Call after the backward pass. This rank's sums are then in trainable.gradients().
  void end_pass();

 private:
  struct Layer {
    std::vector<std::size_t> indices;  // of parameters
    std::vector<std::int64_t> sizes;   // of the parts of each rank
    std::int64_t most = 0;
    std::size_t num_ready = 0;
  };
  void send(Layer& layer);
  void receive();

  Trainable& trainable_;
  dist::ProcessGroup& group_;
  OnSent on_sent_;
  int num_counting_ = 0;
  std::vector<Layer> layers_;          // from the last to the first, as every rank sends them
  std::vector<std::size_t> place_of_;  // of each parameter
  std::size_t next_ = 0;               // to send
  const Layer* on_its_way_ = nullptr;
  at::Tensor sent_, received_;  // (ranks, elements) fp32
  dist::Pending pending_;
};

}  // namespace adept::train
