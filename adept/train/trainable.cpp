#include "adept/train/trainable.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/nn/stored.h"

namespace adept::train {
Trainable::Trainable(model::Decoder& decoder, std::vector<TrainedTensor> tensors, optim::RankOf process)
    : compute_(decoder.dtype()), source_(decoder.weights().source), lowest_layer_(decoder.num_layers()) {
  ADEPT_CHECK(compute_ == at::kFloat || compute_ == at::kBFloat16, "training computes in fp32 or bf16");
  const at::NoGradGuard no_grad;
  std::set<const at::Tensor*> slots;
  for (const TrainedTensor& t : tensors) {
    ADEPT_CHECK(slots.insert(t.slot).second, "{} is trained twice", t.name);
    if (source_ != nullptr && t.slot->defined() && source_->provides(*t.slot))
      make_divided(t, process);
    else
      make_replicated(t, process);
    *t.slot = leaves_.back();
    if (t.layer >= 0) lowest_layer_ = std::min(lowest_layer_, t.layer);
    trains_embeddings_ |= t.slot == &decoder.weights().embed_tokens.weight;
  }
  trains_rows_ = decoder.weights().embed_tokens.trained.any();
  gradients_.resize(leaves_.size());
  if (decoder.config().tie_word_embeddings) decoder.weights().lm_head = decoder.weights().embed_tokens;
}

void Trainable::make_divided(const TrainedTensor& tensor, optim::RankOf process) {
  const model::Piece piece = source_->piece(*tensor.slot);
  const optim::Shard shard{.shape = tensor.slot->sizes().vec(), .bounds = piece.bounds, .rank = process.rank};
  const at::Tensor initial = shard.of(tensor.initial());
  piece.values.copy_(initial);
  const at::Tensor master = compute_ == at::kFloat ? piece.values : initial.clone();
  add(tensor, nn::trained_leaf_of(*tensor.slot, compute_), master, shard);
  pieces_.back() = piece.values;
}

void Trainable::make_replicated(const TrainedTensor& tensor, optim::RankOf process) {
  const at::Tensor initial = tensor.initial();
  if (process.size == 1) return add(tensor, nn::leaf_of_master(initial, compute_), initial, std::nullopt);
  optim::Shard shard = optim::row_shard(initial.sizes(), process);
  const bool is_table = tensor.layer < 0;  // whose rows have gradients that are added in its type
  const at::Tensor leaf = is_table ? nn::leaf_of_master(initial, compute_) : nn::trained_leaf_of(initial, compute_);
  const at::Tensor part = shard.of(leaf.is_alias_of(initial) ? leaf.detach() : initial);
  add(tensor, leaf, leaf.is_alias_of(initial) ? part : part.clone(), std::move(shard));
}

void Trainable::add(const TrainedTensor& tensor, const at::Tensor& leaf, at::Tensor master,
                    std::optional<optim::Shard> shard) {
  parameters_.push_back({.name = tensor.name, .master = std::move(master), .shard = std::move(shard)});
  leaves_.push_back(leaf);
  pieces_.emplace_back();
  layers_.push_back(tensor.layer);
}

std::int64_t Trainable::num_parameters() const {
  std::int64_t count = 0;
  for (const optim::Parameter& p : parameters_) count += p.numel();
  return count;
}

bool Trainable::any_divided() const {
  return std::ranges::any_of(pieces_, [](const at::Tensor& piece) { return piece.defined(); });
}

bool Trainable::has_own_master(std::size_t i) const {
  const at::Tensor& master = parameters_[i].master;
  return !master.is_alias_of(leaves_[i]) && !(is_divided(i) && master.is_alias_of(pieces_[i]));
}

std::vector<at::Tensor> Trainable::own_gradients() const {
  std::vector<at::Tensor> own;
  for (std::size_t i = 0; i < gradients_.size(); ++i)
    own.push_back(is_divided(i) ? gradients_[i] : parameters_[i].part_of(gradients_[i].contiguous()));
  return own;
}

void Trainable::collect_gradients() {
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    at::Tensor& gradient = gradients_[i];
    if (!is_divided(i) && leaves_[i].grad().defined()) gradient = leaves_[i].grad();
    const at::IntArrayRef shape = is_divided(i) ? parameters_[i].master.sizes() : leaves_[i].sizes();
    if (!gradient.defined()) gradient = at::zeros(shape, parameters_[i].master.options());
  }
}

void Trainable::set_gradients(std::vector<at::Tensor> gradients) {
  for (std::size_t i = 0; i < gradients_.size(); ++i)
    if (!is_divided(i)) gradients_[i] = std::move(gradients[i]);
  collect_gradients();
}

void Trainable::add_to_gradient(std::size_t i, const at::Tensor& addend) {
  at::Tensor& gradient = gradients_[i];
  gradient = gradient.defined() ? gradient.add_(addend) : addend.clone();
}

void Trainable::drop_gradients() {
  for (at::Tensor& leaf : leaves_) leaf.mutable_grad().reset();
  gradients_.assign(leaves_.size(), {});
}

void Trainable::publish(dist::ProcessGroup& group) {
  const at::NoGradGuard no_grad;
  std::map<at::ScalarType, std::vector<optim::Gathered>> gathered;
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    const optim::Parameter& p = parameters_[i];
    const std::size_t ranks = p.shard ? p.shard->bounds.size() - 1 : 1;
    ADEPT_CHECK(ranks == static_cast<std::size_t>(group.size()), "{} has parts of {} ranks of {}", p.name, ranks,
                group.size());
    const at::Tensor leaf = leaves_[i].detach();
    if (has_own_master(i)) (is_divided(i) ? pieces_[i] : p.part_of(leaf)).copy_(p.master);
    if (p.shard && !is_divided(i)) gathered[leaf.scalar_type()].push_back({leaf, &*p.shard});
  }
  for (const auto& [type, tensors] : gathered) optim::gather(tensors, group);
  if (source_ != nullptr) source_->changed();
}

void Trainable::set_leaf(const std::string& name, const at::Tensor& master) {
  const at::NoGradGuard no_grad;
  const auto found = std::ranges::find(parameters_, name, &optim::Parameter::name);
  ADEPT_CHECK(found != parameters_.end(), "{} does not train", name);
  const auto i = static_cast<std::size_t>(found - parameters_.begin());
  if (is_divided(i)) {
    pieces_[i].copy_(found->master);
    source_->changed();
  } else if (!leaves_[i].is_alias_of(found->master) || found->shard) {
    leaves_[i].copy_(master);
  }
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
