#include "adept/train/gradient_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "adept/core/error.h"

namespace adept::train {
namespace {

// A larger gradient is sent on its own, without a copy.
constexpr std::int64_t kBucketElements = 1 << 18;

}  // namespace

/// Tells that autograd has accumulated the gradient of a leaf.
class GradientExchange::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientExchange& exchange, std::size_t index) : exchange_(exchange), index_(index) {}
  void operator()(const at::Tensor&) override { exchange_.on_ready(index_); }

 private:
  GradientExchange& exchange_;
  std::size_t index_;
};

GradientExchange::GradientExchange(Trainable& trainable, dist::ProcessGroup& group, bool deterministic)
    : trainable_(trainable), group_(group), in_order_(deterministic && group.size() > 1) {
  if (in_order_) sums_.resize(trainable.parameters().size());
  if (group.size() == 1 || in_order_) return;
  make_buckets();
  for (std::size_t i = 0; i < bucket_of_.size(); ++i)
    if (trainable.accumulates_in_place(i))
      torch::autograd::impl::set_post_acc_grad_hooks(trainable.leaves()[i], std::make_unique<Hook>(*this, i));
}

GradientExchange::~GradientExchange() {
  for (std::size_t i = 0; i < bucket_of_.size(); ++i)
    if (trainable_.accumulates_in_place(i))
      torch::autograd::impl::set_post_acc_grad_hooks(trainable_.leaves()[i], nullptr);
}

// From the last tensor to the first, as the backward pass completes them; those that are known at the end only come
// last.
void GradientExchange::make_buckets() {
  const auto count = trainable_.parameters().size();
  bucket_of_.resize(count);
  for (const bool in_place : {true, false}) {
    std::int64_t elements = kBucketElements;  // starts a new bucket
    for (std::size_t i = count; i-- > 0;) {
      if (trainable_.accumulates_in_place(i) != in_place) continue;
      const std::int64_t size = trainable_.parameters()[i].master.numel();
      if (elements + size > kBucketElements) {
        buckets_.emplace_back();
        elements = 0;
      }
      elements += size;
      buckets_.back().indices.push_back(i);
      bucket_of_[i] = buckets_.size() - 1;
    }
  }
}

void GradientExchange::begin_last_pass() { sends_early_ = !buckets_.empty(); }

void GradientExchange::on_ready(std::size_t index) {
  if (!sends_early_) return;
  Bucket& bucket = buckets_[bucket_of_[index]];
  ADEPT_CHECK(!bucket.started, "{} got a gradient after it was sent", trainable_.parameters()[index].name);
  ++bucket.num_ready;
  while (next_ < buckets_.size() && buckets_[next_].num_ready == buckets_[next_].indices.size())
    start(buckets_[next_++]);
}

// What autograd has accumulated counts: a leaf that earlier micro-batches did not reach was collected as zeros.
at::Tensor GradientExchange::gradient(std::size_t index) const {
  const at::Tensor& accumulated = trainable_.leaves()[index].grad();
  return trainable_.accumulates_in_place(index) && accumulated.defined() ? accumulated : trainable_.gradients()[index];
}

void GradientExchange::start(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  bucket.started = true;
  const at::Tensor first = gradient(bucket.indices.front());
  if (bucket.indices.size() == 1 && first.is_contiguous()) {
    bucket.sum = first;
  } else {
    std::vector<at::Tensor> parts;
    for (const std::size_t index : bucket.indices) parts.push_back(gradient(index).reshape({-1}));
    bucket.sum = at::cat(parts);
  }
  bucket.pending = group_.start_all_reduce(bucket.sum);
}

void GradientExchange::end_round(bool has_own) {
  if (in_order_ && !has_own)
    for (const at::Tensor& leaf : trainable_.leaves()) leaf.mutable_grad().reset();
  if (in_order_)
    add_in_order();
  else
    trainable_.collect_gradients();
}

void GradientExchange::finish() {
  if (in_order_) return trainable_.set_gradients(std::exchange(sums_, {}));
  const at::NoGradGuard no_grad;
  while (next_ < buckets_.size()) start(buckets_[next_++]);
  for (Bucket& bucket : buckets_) {
    bucket.pending.wait();
    std::int64_t offset = 0;
    for (const std::size_t index : bucket.indices) {
      const at::Tensor& target = trainable_.gradients()[index];
      if (!target.is_alias_of(bucket.sum))
        target.copy_(bucket.sum.slice(0, offset, offset + target.numel()).view_as(target));
      offset += target.numel();
    }
    bucket.sum.reset();
  }
}

void GradientExchange::add_in_order() {
  const at::NoGradGuard no_grad;
  std::vector<double> is_defined;
  for (const at::Tensor& leaf : trainable_.leaves()) is_defined.push_back(leaf.grad().defined() ? 1 : 0);
  const auto defined = group_.all_gather(is_defined);
  for (std::size_t i = 0; i < is_defined.size(); ++i) {
    const auto has = [&](const std::vector<double>& of_rank) { return of_rank[i] != 0; };
    if (std::ranges::none_of(defined, has)) continue;
    const at::Tensor& leaf = trainable_.leaves()[i];
    const at::Tensor part = leaf.grad().defined() ? leaf.grad().contiguous() : at::zeros_like(leaf);
    std::vector<std::int64_t> shape = leaf.sizes().vec();
    shape.insert(shape.begin(), group_.size());
    const at::Tensor whole = at::empty(shape, part.options());
    group_.all_gather(whole, part);
    for (std::size_t rank = 0; rank < defined.size(); ++rank) {
      if (!has(defined[rank])) continue;
      const at::Tensor addend = whole[static_cast<std::int64_t>(rank)];
      sums_[i] = sums_[i].defined() ? sums_[i].add_(addend) : addend.to(at::kFloat).clone();
    }
  }
  for (const at::Tensor& leaf : trainable_.leaves()) leaf.mutable_grad().reset();
}

}  // namespace adept::train
