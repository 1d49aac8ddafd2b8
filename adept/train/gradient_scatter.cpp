#include "adept/train/gradient_scatter.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "adept/core/error.h"

namespace adept::train {

GradientScatter::GradientScatter(Trainable& trainable, dist::ProcessGroup& group, OnSent on_sent)
    : trainable_(trainable), group_(group), on_sent_(std::move(on_sent)), place_of_(trainable.parameters().size()) {
  for (std::size_t i = trainable.parameters().size(); i-- > 0;) {
    if (!trainable.is_divided(i)) continue;
    const bool is_new = layers_.empty() || trainable.layer_of(layers_.back().indices.front()) != trainable.layer_of(i);
    if (is_new) layers_.push_back({.indices = {}, .sizes = std::vector<std::int64_t>(group.size())});
    Layer& layer = layers_.back();
    layer.indices.push_back(i);
    place_of_[i] = layers_.size() - 1;
    const std::vector<std::int64_t>& bounds = trainable.parameters()[i].shard->bounds;
    for (std::size_t rank = 0; rank < layer.sizes.size(); ++rank) layer.sizes[rank] += bounds[rank + 1] - bounds[rank];
  }
  for (Layer& layer : layers_) layer.most = std::ranges::max(layer.sizes);
}

void GradientScatter::begin_pass(int num_counting) {
  num_counting_ = num_counting;
  next_ = 0;
  for (Layer& layer : layers_) layer.num_ready = 0;
}

void GradientScatter::on_ready(std::size_t index) {
  ++layers_[place_of_[index]].num_ready;
  while (next_ < layers_.size() && layers_[next_].num_ready == layers_[next_].indices.size()) send(layers_[next_++]);
}

void GradientScatter::end_pass() {
  while (next_ < layers_.size()) send(layers_[next_++]);
  receive();
}

void GradientScatter::send(Layer& layer) {
  receive();
  const at::NoGradGuard no_grad;
  const at::TensorOptions options = trainable_.parameters()[layer.indices.front()].master.options();
  sent_ = at::zeros({group_.size(), layer.most}, options);
  std::vector<std::int64_t> offsets(layer.sizes.size());
  for (const std::size_t index : layer.indices) {
    at::Tensor& gradient = trainable_.leaves()[index].mutable_grad();
    if (on_sent_) on_sent_(index, gradient);
    const optim::Shard& shard = *trainable_.parameters()[index].shard;
    const at::Tensor whole = gradient.defined() ? gradient.contiguous() : at::Tensor();
    for (std::size_t rank = 0; rank < offsets.size(); ++rank) {
      const std::int64_t count = shard.bounds[rank + 1] - shard.bounds[rank];
      if (count > 0 && whole.defined())
        sent_[static_cast<std::int64_t>(rank)]
            .slice(0, offsets[rank], offsets[rank] + count)
            .copy_(shard.of(whole, static_cast<int>(rank)));
      offsets[rank] += count;
    }
    gradient.reset();
  }
  received_ = at::empty(sent_.sizes(), options);
  on_its_way_ = &layer;
  pending_ = group_.start_all_to_all(received_, sent_);
}

void GradientScatter::receive() {
  if (on_its_way_ == nullptr) return;
  const Layer& layer = *std::exchange(on_its_way_, nullptr);
  pending_.wait();
  const at::NoGradGuard no_grad;
  std::int64_t offset = 0;
  for (const std::size_t index : layer.indices) {
    const std::int64_t end = offset + trainable_.parameters()[index].shard->size();
    for (int rank = 0; rank < num_counting_; ++rank)
      trainable_.add_to_gradient(index, received_[rank].slice(0, offset, end));
    offset = end;
  }
  sent_.reset();
  received_.reset();
}

}  // namespace adept::train
