#include "adept/train/trainable.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <set>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/method/units.h"
#include "adept/model/torch_tensors.h"

namespace adept::train {

Trainable::Trainable(model::Decoder& decoder, const method::Expansion& expansion, const io::WeightFiles& files)
    : lowest_layer_(expansion.layers.front().index) {
  const at::ScalarType compute = decoder.dtype();
  ADEPT_CHECK(compute == at::kFloat || compute == at::kBFloat16, "training computes in fp32 or bf16");
  const std::vector<std::string> units = method::unit_names(expansion, decoder);
  std::set<std::string> missing(units.begin(), units.end());
  ADEPT_CHECK(missing.size() == units.size(), "units overlap");
  for (const model::NamedTensor& p : model::named_parameters(decoder.config(), decoder.weights())) {
    if (missing.erase(p.name) == 0) continue;
    const at::Tensor master =
        model::as_tensor(files.at(p.name), files.owner(p.name)).to(at::kFloat, false, true).to(decoder.device());
    const at::Tensor grad = at::zeros_like(master);
    const at::Tensor leaf = (compute == at::kFloat ? master.detach() : master.to(compute)).set_requires_grad(true);
    if (compute == at::kFloat) leaf.mutable_grad() = grad;
    *p.tensor = leaf;
    leaves_.push_back(leaf);
    parameters_.push_back({.name = p.name, .master = master, .grad = grad});
  }
  ADEPT_CHECK(missing.empty(), "{} units are no tensors of the model", missing.size());
}

std::int64_t Trainable::num_parameters() const {
  std::int64_t count = 0;
  for (const optim::Parameter& p : parameters_) count += p.master.numel();
  return count;
}

void Trainable::zero_gradients() {
  for (const optim::Parameter& p : parameters_) p.grad.zero_();
}

void Trainable::accumulate_gradients() {
  for (std::size_t i = 0; i < leaves_.size(); ++i) {
    at::Tensor& grad = leaves_[i].mutable_grad();
    if (leaves_[i].scalar_type() == at::kFloat) {
      ADEPT_CHECK(grad.is_same(parameters_[i].grad), "the gradient of {} was replaced", parameters_[i].name);
    } else if (grad.defined()) {
      parameters_[i].grad.add_(grad);
      grad.reset();
    }
  }
}

void Trainable::publish() {
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < leaves_.size(); ++i)
    if (leaves_[i].scalar_type() != at::kFloat) leaves_[i].copy_(parameters_[i].master);
}

std::string frozen_hash(const model::Decoder& decoder, const method::Expansion& expansion) {
  std::set<std::int64_t> trained;
  for (const method::ExpandedLayer& copy : expansion.layers) trained.insert(copy.index);
  Hasher hasher;
  model::Weights weights = decoder.weights();
  for (const model::NamedTensor& p : model::named_parameters(decoder.config(), weights)) {
    if (trained.contains(p.layer)) continue;
    const at::Tensor tensor = p.tensor->cpu().contiguous();
    hasher.update(p.name).update(model::as_view(p.name, tensor).data);
  }
  return hasher.digest();
}

}  // namespace adept::train
