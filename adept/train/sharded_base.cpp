#include "adept/train/sharded_base.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/progress.h"

namespace adept::train {
namespace {

constexpr std::int64_t kAlignment = 64;  // of tensors and parts: a cache line, and the widest element many times

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::int64_t bytes_of(const at::Tensor& tensor) { return static_cast<std::int64_t>(tensor.nbytes()); }

at::Tensor as_bytes(const at::Tensor& tensor) { return tensor.contiguous().view({-1}).view(at::kByte); }

}  // namespace

ShardedBase::ShardedBase(dist::ProcessGroup& group, std::int64_t num_layers)
    : group_(&group), rank_(group.rank()), size_(group.size()), layers_(static_cast<std::size_t>(num_layers)) {}

ShardedBase::ShardedBase(int size, std::int64_t num_layers)
    : size_(size), layers_(static_cast<std::size_t>(num_layers)) {}

void ShardedBase::take(std::int64_t l, std::span<at::Tensor* const> tensors) {
  ADEPT_CHECK(!is_sharded(l), "layer {} was taken before", l);
  if (tensors.empty()) return;
  const at::NoGradGuard no_grad;
  const at::Device device = tensors.front()->device();
  Layer& layer = layers_[static_cast<std::size_t>(l)];
  for (const at::Tensor* tensor : tensors) layer.bytes += round_up(bytes_of(*tensor), kAlignment);
  const std::int64_t size = round_up((layer.bytes + size_ - 1) / size_, kAlignment);
  layer.bytes = size * size_;
  layer.part = at::empty({size}, at::TensorOptions(at::kByte).device(device));
  const at::Tensor flat = at::empty({layer.bytes}, layer.part.options());
  layer.storage = flat.storage();
  layer.storage.set_data_ptr_noswap(c10::DataPtr(nullptr, device));
  const std::int64_t begin = size * rank_, end = begin + size;
  std::int64_t offset = 0;
  for (at::Tensor* tensor : tensors) {
    const std::int64_t from = std::max(begin, offset), to = std::min(end, offset + bytes_of(*tensor));
    if (from < to)
      layer.part.slice(0, from - begin, to - begin).copy_(as_bytes(*tensor).slice(0, from - offset, to - offset));
    const at::Tensor whole =
        flat.slice(0, offset, offset + bytes_of(*tensor)).view(tensor->scalar_type()).view(tensor->sizes());
    offset += round_up(bytes_of(*tensor), kAlignment);
    *tensor = whole;
  }
}

void ShardedBase::reserve() {
  const Layer& largest = std::ranges::max(layers_, {}, &Layer::bytes);
  if (largest.bytes == 0) return;
  for (Buffer& buffer : buffers_) buffer.memory = at::empty({largest.bytes}, largest.part.options());
}

// A buffer that is neither this layer's nor the next one's is free: what was computed with it is done, or, on a GPU, in
// the stream before the gathering.
void ShardedBase::fetch(std::int64_t l, int direction) {
  const std::int64_t next = next_of(l, direction);
  const auto is_free = [&](const Buffer& buffer) {
    return buffer.layer == kNone || (buffer.layer != l && buffer.layer != next);
  };
  if (is_sharded(l)) {
    if (buffer_of(l) == nullptr) start(l, *std::ranges::find_if(buffers_, is_free));
    buffer_of(l)->gathering.wait();
  }
  if (next != kNone && buffer_of(next) == nullptr) start(next, *std::ranges::find_if(buffers_, is_free));
}

std::int64_t ShardedBase::next_of(std::int64_t l, int direction) const {
  if (direction == 0) return kNone;
  for (l += direction; l >= 0 && l < std::ssize(layers_); l += direction)
    if (is_sharded(l)) return l;
  return kNone;
}

ShardedBase::Buffer* ShardedBase::buffer_of(std::int64_t l) {
  const auto found = std::ranges::find(buffers_, l, &Buffer::layer);
  return found == buffers_.end() ? nullptr : &*found;
}

void ShardedBase::start(std::int64_t l, Buffer& buffer) {
  const auto move_to = [](const Layer& layer, void* data) {
    layer.storage.set_data_ptr_noswap(c10::DataPtr(data, layer.part.device()));
  };
  buffer.gathering.wait();  // of a layer that was not used after all
  if (buffer.layer != kNone) move_to(layers_[static_cast<std::size_t>(buffer.layer)], nullptr);
  const Layer& layer = layers_[static_cast<std::size_t>(l)];
  buffer.layer = l;
  move_to(layer, buffer.memory.data_ptr());
  buffer.gathering = group_->start_all_gather(buffer.memory.slice(0, 0, layer.bytes), layer.part);
}

bool ShardedBase::provides(const at::Tensor& tensor) const {
  return std::ranges::any_of(layers_, [&](const Layer& layer) {
    return layer.storage && tensor.storage().unsafeGetStorageImpl() == layer.storage.unsafeGetStorageImpl();
  });
}

std::int64_t ShardedBase::num_bytes() const {
  std::int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.bytes / size_;
  for (const Buffer& buffer : buffers_) bytes += buffer.memory.defined() ? buffer.memory.numel() : 0;
  return bytes;
}

std::int64_t ShardedBase::whole_bytes() const {
  std::int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.bytes;
  return bytes;
}

std::int64_t ShardedBase::bytes_received(std::int64_t lowest) const {
  std::int64_t bytes = 0;
  for (std::int64_t l = lowest; l < std::ssize(layers_); ++l)
    bytes += layers_[static_cast<std::size_t>(l)].bytes / size_ * (size_ - 1);
  return bytes;
}

std::string ShardedBase::describe(std::int64_t lowest) const {
  const std::int64_t forward = bytes_received(0), backward = bytes_received(lowest);
  const std::string held = fmt::format("frozen layers are divided over {} processes: {} instead of {} on each", size_,
                                       format_bytes(num_bytes()), format_bytes(whole_bytes()));
  if (backward == 0) return fmt::format("{}; a pass receives {}", held, format_bytes(forward));
  return fmt::format("{}; every micro-batch receives {} (forward {}, backward {})", held,
                     format_bytes(forward + backward), format_bytes(forward), format_bytes(backward));
}

model::Decoder load_sharded(const std::filesystem::path& model_dir, const io::WeightFiles& files,
                            model::LoadOptions options, const std::function<bool(const model::Parameter&)>& is_frozen,
                            dist::ProcessGroup& group) {
  const auto base = std::make_shared<ShardedBase>(group, model::read_model_config(model_dir).num_hidden_layers);
  options.on_layer = [&](std::int64_t layer, std::span<const model::Parameter> parameters) {
    std::vector<at::Tensor*> tensors;
    for (const model::Parameter& p : parameters)
      if (is_frozen(p)) tensors.push_back(p.tensor);
    base->take(layer, tensors);
  };
  model::Decoder decoder = model::load_decoder(model_dir, files, options);
  base->reserve();
  decoder.weights().source = base;
  return decoder;
}

model::Decoder load_sharded(const std::filesystem::path& model_dir, const model::LoadOptions& options,
                            dist::ProcessGroup& group) {
  const io::WeightFiles files = model::open_weights(model::read_model_config(model_dir), model_dir);
  return load_sharded(model_dir, files, options, [](const model::Parameter&) { return true; }, group);
}

}  // namespace adept::train
