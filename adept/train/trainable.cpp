#include "adept/train/trainable.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/nn/stored.h"

namespace adept::train {
Trainable::Trainable(model::Decoder& decoder, std::vector<TrainedTensor> tensors)
    : lowest_layer_(decoder.num_layers()) {
  const at::ScalarType compute = decoder.dtype();
  ADEPT_CHECK(compute == at::kFloat || compute == at::kBFloat16, "training computes in fp32 or bf16");
  std::set<const at::Tensor*> slots;
  for (TrainedTensor& t : tensors) {
    ADEPT_CHECK(slots.insert(t.slot).second, "{} is trained twice", t.name);
    const at::Tensor leaf = nn::leaf_of_master(t.master, compute);
    *t.slot = leaf;
    leaves_.push_back(leaf);
    parameters_.push_back({.name = t.name, .master = t.master});
    if (t.layer >= 0) lowest_layer_ = std::min(lowest_layer_, t.layer);
    trains_embeddings_ |= t.slot == &decoder.weights().embed_tokens.weight;
    t.master.reset();
  }
  trains_rows_ = decoder.weights().embed_tokens.trained.any();
  gradients_.resize(leaves_.size());
  if (decoder.config().tie_word_embeddings) decoder.weights().lm_head = decoder.weights().embed_tokens;
}

std::int64_t Trainable::num_parameters() const {
  std::int64_t count = 0;
  for (const optim::Parameter& p : parameters_) count += p.master.numel();
  return count;
}

void Trainable::collect_gradients() {
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    at::Tensor &sum = gradients_[i], &grad = leaves_[i].mutable_grad();
    if (accumulates_in_place(i)) {
      if (grad.defined()) sum = grad;  // autograd has accumulated all micro-batches in it
    } else if (grad.defined()) {
      sum = sum.defined() ? sum.add_(grad) : grad.to(at::kFloat);
      grad.reset();
    }
    if (!sum.defined()) sum = at::zeros_like(parameters_[i].master);
  }
}

void Trainable::set_gradients(std::vector<at::Tensor> gradients) {
  gradients_ = std::move(gradients);
  for (std::size_t i = 0; i < gradients_.size(); ++i)
    if (!gradients_[i].defined()) gradients_[i] = at::zeros_like(parameters_[i].master);
}

void Trainable::drop_gradients() {
  for (at::Tensor& leaf : leaves_) leaf.mutable_grad().reset();
  gradients_.assign(leaves_.size(), {});
}

void Trainable::publish() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < leaves_.size(); ++i)
    if (!accumulates_in_place(i)) leaves_[i].copy_(parameters_[i].master);
}

std::string frozen_hash(const std::string& weights_hash, const model::Decoder& decoder, const Trainable& trainable) {
  Hasher hasher;
  hasher.update(fmt::format("{} {}", weights_hash, c10::toString(decoder.dtype())));
  for (const optim::Parameter& p : trainable.parameters()) hasher.update(" " + p.name);
  if (const nn::TrainedRows& rows = decoder.weights().embed_tokens.trained; rows.any()) {
    const at::Tensor& ids = rows.ids.host;
    hasher.update(std::as_bytes(std::span(ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel()))));
  }
  return hasher.digest();
}

FrozenTensors::FrozenTensors(const model::Decoder& decoder, const Trainable& trainable) : decoder_(decoder) {
  std::set<std::string> trained;
  for (const optim::Parameter& p : trainable.parameters()) trained.insert(p.name);
  model::Weights weights = decoder.weights();
  for (const model::Parameter& p : model::named_parameters(decoder.config(), weights))
    if (!trained.contains(p.name)) seen_.emplace(p.name, std::pair(*p.tensor, p.tensor->_version()));
}

void FrozenTensors::verify() const {
  model::Weights weights = decoder_.weights();
  for (const model::Parameter& p : model::named_parameters(decoder_.config(), weights)) {
    const auto found = seen_.find(p.name);
    if (found == seen_.end()) continue;
    const auto& [tensor, version] = found->second;
    ADEPT_CHECK(p.tensor->is_same(tensor) && tensor._version() == version,
                "the frozen tensor {} changed during training", p.name);
  }
}

}  // namespace adept::train
