#include "adept/train/gradient_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
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

// As the backward pass completes them.
std::vector<std::vector<std::size_t>> gradient_buckets(const Trainable& trainable) {
  std::vector<std::vector<std::size_t>> buckets;
  std::int64_t elements = kBucketElements;  // starts a new bucket
  for (std::size_t i = trainable.parameters().size(); i-- > 0;) {
    if (trainable.is_divided(i)) continue;
    const std::int64_t size = trainable.leaves()[i].numel();
    if (elements + size > kBucketElements) {
      buckets.emplace_back();
      elements = 0;
    }
    elements += size;
    buckets.back().push_back(i);
  }
  return buckets;
}

/// Tells that autograd has accumulated the gradient of a leaf.
class GradientExchange::Hook : public torch::autograd::PostAccumulateGradHook {
 public:
  Hook(GradientExchange& exchange, std::size_t index) : exchange_(exchange), index_(index) {}
  void operator()(const at::Tensor&) override { exchange_.on_ready(index_); }

 private:
  GradientExchange& exchange_;
  std::size_t index_;
};

GradientExchange::GradientExchange(Trainable& trainable, dist::ProcessGroup& group, bool deterministic,
                                   GradientScatter::OnSent on_sent)
    : trainable_(trainable),
      group_(group),
      scatter_(trainable, group, std::move(on_sent)),
      in_order_(deterministic && group.size() > 1),
      bucket_of_(trainable.parameters().size()) {
  if (in_order_) sums_.resize(trainable.parameters().size());
  if (group.size() > 1 && !in_order_) make_buckets();
  for (std::size_t i = 0; i < bucket_of_.size(); ++i)
    if (trainable.is_divided(i) || !buckets_.empty())
      torch::autograd::impl::set_post_acc_grad_hooks(trainable.leaves()[i], std::make_unique<Hook>(*this, i));
}

GradientExchange::~GradientExchange() {
  for (const at::Tensor& leaf : trainable_.leaves()) torch::autograd::impl::set_post_acc_grad_hooks(leaf, nullptr);
}

void GradientExchange::make_buckets() {
  for (std::vector<std::size_t>& indices : gradient_buckets(trainable_)) {
    for (const std::size_t i : indices) bucket_of_[i] = buckets_.size();
    buckets_.emplace_back().indices = std::move(indices);
  }
}

void GradientExchange::begin_pass(int num_counting, bool sends_early) {
  sends_early_ = sends_early && !buckets_.empty();
  scatter_.begin_pass(num_counting);
}

void GradientExchange::on_ready(std::size_t index) {
  if (trainable_.is_divided(index)) return scatter_.on_ready(index);
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
  return accumulated.defined() ? accumulated : trainable_.gradients()[index];
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
    const at::TensorOptions options = trainable_.parameters()[i].master.options();
    const at::Tensor part = leaf.grad().defined() ? leaf.grad().contiguous() : at::zeros(leaf.sizes(), options);
    std::vector<std::int64_t> shape = leaf.sizes().vec();
    shape.insert(shape.begin(), group_.size());
    const at::Tensor whole = at::empty(shape, options);
    group_.all_gather(whole, part);
    for (std::size_t rank = 0; rank < defined.size(); ++rank) {
      if (!has(defined[rank])) continue;
      const at::Tensor addend = whole[static_cast<std::int64_t>(rank)];
      sums_[i] = sums_[i].defined() ? sums_[i].add_(addend) : addend.clone();
    }
  }
  for (const at::Tensor& leaf : trainable_.leaves()) leaf.mutable_grad().reset();
}

}  // namespace adept::train
