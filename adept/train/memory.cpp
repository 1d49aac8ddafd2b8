#include "adept/train/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "adept/core/progress.h"
#include "adept/nn/allocator.h"
#include "adept/nn/kernels.h"

namespace adept::train {
namespace {

using Storages = std::set<const void*>;  // which tensors without values have too

std::int64_t num_bytes(const at::Tensor& tensor) { return static_cast<std::int64_t>(tensor.nbytes()); }

const void* storage_of(const at::Tensor& tensor) { return tensor.storage().unsafeGetStorageImpl(); }

// Without those that were counted before.
std::int64_t weight_bytes(const model::Decoder& decoder, Storages counted) {
  model::Weights weights = decoder.weights();
  const model::LayerSource* source = weights.source.get();
  std::int64_t bytes = source == nullptr ? 0 : source->num_bytes();
  const auto count = [&](const at::Tensor& tensor) {
    if (source != nullptr && tensor.defined() && source->provides(tensor)) return;
    if (tensor.defined() && counted.insert(storage_of(tensor)).second) bytes += num_bytes(tensor);
  };
  for (const model::Parameter& p : model::named_parameters(decoder.config(), weights)) count(*p.tensor);
  for (const model::NamedProjection& l : model::named_projections(weights.layers)) {
    count(l.projection->linear.adapter.a);
    count(l.projection->linear.adapter.b);
  }
  return bytes;
}

}  // namespace

std::int64_t weight_bytes(const model::Decoder& decoder) { return weight_bytes(decoder, {}); }

Json to_json(const MemoryUse& m) {
  return {
      {"weights", m.weights},     {"masters", m.masters},       {"moments", m.moments}, {"activations", m.activations},
      {"gradients", m.gradients}, {"work_space", m.work_space}, {"cache", m.cache},     {"total", m.peak}};
}

std::string describe(const MemoryUse& m) {
  std::string text = format_bytes(m.peak);
  std::string_view separator = "; ";
  const auto add = [&](std::string_view name, std::int64_t bytes) {
    if (bytes == 0) return;
    text += fmt::format("{}{} {}", separator, name, format_bytes(bytes));
    separator = ", ";
  };
  add("weights", m.weights);
  add("masters", m.masters);
  add("moments", m.moments);
  add("activations", m.activations);
  add("gradients", m.gradients);
  add("work space", m.work_space);
  add("on disk: activation cache", m.cache);
  return text;
}

MemoryUse resident_memory(const model::Decoder& decoder, const Trainable& trainable, const optim::AdamW& optimizer) {
  MemoryUse memory;
  Storages counted;
  std::int64_t in_layers = 0;  // masters that are bytes of divided layers
  for (std::size_t i = 0; i < trainable.parameters().size(); ++i) {
    const optim::Parameter& p = trainable.parameters()[i];
    const optim::Moments& moments = optimizer.moments().at(p.name);
    memory.moments += num_bytes(moments.exp_avg) + num_bytes(moments.exp_avg_sq);
    const bool is_read = !trainable.has_own_master(i);
    memory.masters += num_bytes(is_read && !trainable.is_divided(i) ? trainable.leaves()[i] : p.master);
    if (is_read && trainable.is_divided(i)) in_layers += num_bytes(p.master);
    counted.insert(storage_of(p.master));
  }
  memory.weights = weight_bytes(decoder, std::move(counted)) - in_layers;
  memory.peak = memory.weights + memory.masters + memory.moments;
  return memory;
}

StepBytes::StepBytes(at::Device device) : device_(device) {
  nn::reset_peak_tensor_memory(device);
  before_ = nn::tensor_memory(device).in_use - (device.is_cpu() ? nn::thread_workspace_bytes() : 0);
}

std::int64_t StepBytes::most() const { return nn::tensor_memory(device_).peak - before_; }

MemoryUse step_memory(MemoryUse resident, const StepResult& step, std::int64_t num_micro_batches,
                      std::int64_t step_bytes) {
  MemoryUse memory = resident;
  memory.activations = step.activation_bytes;
  memory.gradients = step.gradient_bytes;
  // The activations of the first micro-batch exist before the gradients, those of the others at the same time.
  const std::int64_t known =
      num_micro_batches > 1 ? memory.activations + memory.gradients : std::max(memory.activations, memory.gradients);
  memory.work_space = std::max<std::int64_t>(0, step_bytes - known);
  memory.peak += step_bytes;
  return memory;
}

}  // namespace adept::train
