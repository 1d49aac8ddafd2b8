#include "adept/train/sharded_layers.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/progress.h"
#include "adept/nn/square_sum.h"

namespace adept::train {
namespace {

constexpr std::int64_t kGradientBytes = 4;  // of an element, fp32
constexpr std::int64_t kAlignment = 64;     // of tensors and parts: a cache line, and the widest element many times

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::int64_t bytes_of(const at::Tensor& tensor) { return static_cast<std::int64_t>(tensor.nbytes()); }

void move_to(const c10::Storage& storage, void* data) {
  storage.set_data_ptr_noswap(c10::DataPtr(data, storage.device()));
}

at::Tensor as_bytes(const at::Tensor& tensor) { return tensor.contiguous().view({-1}).view(at::kByte); }

}  // namespace

ShardedLayers::ShardedLayers(int size, const model::ModelConfig& model, const Trains& trains, at::ScalarType compute)
    : size_(size), compute_(compute), layers_(static_cast<std::size_t>(model.num_hidden_layers)) {
  model::Weights slots;
  all_train_ = std::ranges::all_of(model::named_parameters(model, slots),
                                   [&](const model::Parameter& p) { return p.layer < 0 || trains(p); });
}

ShardedLayers::ShardedLayers(dist::ProcessGroup& group, const model::ModelConfig& model, const Trains& trains,
                             at::ScalarType compute)
    : ShardedLayers(group.size(), model, trains, compute) {
  group_ = &group;
  rank_ = group.rank();
}

std::vector<at::Tensor*> ShardedLayers::divided(std::span<const model::Parameter> parameters,
                                                const Trains& trains) const {
  std::vector<at::Tensor*> tensors;
  for (const model::Parameter& p : parameters) {
    if (all_train_) *p.tensor = p.tensor->to(compute_);  // a matrix may be narrower
    if (all_train_ || !trains(p)) tensors.push_back(p.tensor);
  }
  return tensors;
}

void ShardedLayers::take(std::int64_t l, std::span<const model::Parameter> parameters, const Trains& trains) {
  ADEPT_CHECK(!is_sharded(l), "layer {} was taken before", l);
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor*> tensors = divided(parameters, trains);
  if (tensors.empty()) return;
  const at::Device device = tensors.front()->device();
  // Parts of what trains consist of whole blocks of the sum of squares, so that any number of ranks has the same bits
  // of the gradient's norm.
  const std::int64_t element = static_cast<std::int64_t>(c10::elementSize(compute_));
  const std::int64_t alignment = all_train_ ? nn::kSquareSumBlock * element : kAlignment;
  Layer& layer = layers_[static_cast<std::size_t>(l)];
  for (const at::Tensor* tensor : tensors) layer.bytes += round_up(bytes_of(*tensor), alignment);
  const std::int64_t size = round_up((layer.bytes + size_ - 1) / size_, alignment);
  layer.bytes = size * size_;
  layer.part = at::empty({size}, at::TensorOptions(at::kByte).device(device));
  const at::Tensor flat = at::empty({0}, layer.part.options());  // of layer.bytes, without ever allocating them
  layer.storage = flat.storage();
  move_to(layer.storage, nullptr);
  layer.storage.set_nbytes(static_cast<std::size_t>(layer.bytes));
  flat.unsafeGetTensorImpl()->set_sizes_contiguous(layer.bytes);
  const std::int64_t begin = size * rank_, end = begin + size;
  std::int64_t offset = 0;
  for (at::Tensor* tensor : tensors) {
    const std::int64_t from = std::max(begin, offset), to = std::min(end, offset + bytes_of(*tensor));
    if (from < to)
      layer.part.slice(0, from - begin, to - begin).copy_(as_bytes(*tensor).slice(0, from - offset, to - offset));
    const at::Tensor whole =
        flat.slice(0, offset, offset + bytes_of(*tensor)).view(tensor->scalar_type()).view(tensor->sizes());
    offset += round_up(bytes_of(*tensor), alignment);
    *tensor = whole;
  }
}

void ShardedLayers::reserve() {
  const Layer& largest = std::ranges::max(layers_, {}, &Layer::bytes);
  if (largest.bytes == 0) return;
  for (Buffer& buffer : buffers_) buffer.memory = at::empty({largest.bytes}, largest.part.options());
}

// A buffer that is neither this layer's nor the next one's is free: what was computed with it is done, or, on a GPU, in
// the stream before the gathering.
void ShardedLayers::fetch(std::int64_t l, int direction) {
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

std::int64_t ShardedLayers::next_of(std::int64_t l, int direction) const {
  if (direction == 0) return kNone;
  for (l += direction; l >= 0 && l < std::ssize(layers_); l += direction)
    if (is_sharded(l)) return l;
  return kNone;
}

ShardedLayers::Buffer* ShardedLayers::buffer_of(std::int64_t l) {
  const auto found = std::ranges::find(buffers_, l, &Buffer::layer);
  return found == buffers_.end() ? nullptr : &*found;
}

void ShardedLayers::empty(Buffer& buffer) {
  buffer.gathering.wait();  // of a layer that was not used after all
  if (buffer.layer != kNone) move_to(layers_[static_cast<std::size_t>(buffer.layer)].storage, nullptr);
  buffer.layer = kNone;
}

void ShardedLayers::changed() {
  for (Buffer& buffer : buffers_) empty(buffer);
}

void ShardedLayers::start(std::int64_t l, Buffer& buffer) {
  empty(buffer);
  const Layer& layer = layers_[static_cast<std::size_t>(l)];
  buffer.layer = l;
  move_to(layer.storage, buffer.memory.data_ptr());
  buffer.gathering = group_->start_all_gather(buffer.memory.slice(0, 0, layer.bytes), layer.part);
}

const ShardedLayers::Layer* ShardedLayers::layer_of(const at::Tensor& tensor) const {
  const auto found = std::ranges::find_if(layers_, [&](const Layer& layer) {
    return layer.storage && tensor.storage().unsafeGetStorageImpl() == layer.storage.unsafeGetStorageImpl();
  });
  return found == layers_.end() ? nullptr : &*found;
}

model::Piece ShardedLayers::piece(const at::Tensor& tensor) const {
  const Layer* layer = layer_of(tensor);
  ADEPT_CHECK(layer != nullptr, "a tensor that is not divided");
  const auto element = static_cast<std::int64_t>(tensor.element_size());
  const std::int64_t offset = tensor.storage_offset() * element, size = layer->part.numel();
  const auto bound = [&](std::int64_t rank) {
    return std::clamp<std::int64_t>(rank * size - offset, 0, bytes_of(tensor));
  };
  model::Piece piece;
  for (std::int64_t rank = 0; rank <= size_; ++rank) piece.bounds.push_back(bound(rank) / element);
  const std::int64_t from = bound(rank_) + offset - rank_ * size, count = bound(rank_ + 1) - bound(rank_);
  piece.values = layer->part.slice(0, count > 0 ? from : 0, count > 0 ? from + count : 0).view(tensor.scalar_type());
  return piece;
}

std::int64_t ShardedLayers::num_bytes() const {
  std::int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.bytes / size_;
  for (const Buffer& buffer : buffers_) bytes += buffer.memory.defined() ? buffer.memory.numel() : 0;
  return bytes;
}

std::int64_t ShardedLayers::largest_layer_bytes() const { return std::ranges::max(layers_, {}, &Layer::bytes).bytes; }

std::int64_t ShardedLayers::whole_bytes() const {
  std::int64_t bytes = 0;
  for (const Layer& layer : layers_) bytes += layer.bytes;
  return bytes;
}

std::int64_t ShardedLayers::bytes_received(std::int64_t lowest) const {
  std::int64_t bytes = 0;
  for (std::int64_t l = lowest; l < std::ssize(layers_); ++l)
    bytes += layers_[static_cast<std::size_t>(l)].bytes / size_ * (size_ - 1);
  return bytes;
}

std::int64_t ShardedLayers::gradient_bytes_received() const {
  if (!all_train_) return 0;
  return bytes_received(0) / static_cast<std::int64_t>(c10::elementSize(compute_)) * kGradientBytes;
}

std::string ShardedLayers::describe(std::int64_t lowest) const {
  const std::int64_t forward = bytes_received(0), backward = bytes_received(lowest);
  const std::int64_t gradients = gradient_bytes_received();
  const std::string held =
      fmt::format("{} are divided over {} processes: {} instead of {} on each", all_train_ ? "layers" : "frozen layers",
                  size_, format_bytes(num_bytes()), format_bytes(whole_bytes()));
  if (backward == 0) return fmt::format("{}; a pass receives {}", held, format_bytes(forward));
  return fmt::format("{}; every micro-batch receives {} (forward {}, backward {}{})", held,
                     format_bytes(forward + backward + gradients), format_bytes(forward), format_bytes(backward),
                     gradients > 0 ? fmt::format(", gradients {}", format_bytes(gradients)) : "");
}

model::Decoder load_sharded(const std::filesystem::path& model_dir, const io::WeightFiles& files,
                            model::LoadOptions options, const Trains& trains, dist::ProcessGroup& group) {
  const auto base = std::make_shared<ShardedLayers>(group, model::read_model_config(model_dir), trains, options.dtype);
  options.on_layer = [&](std::int64_t layer, std::span<const model::Parameter> parameters) {
    base->take(layer, parameters, trains);
  };
  model::Decoder decoder = model::load_decoder(model_dir, files, options);
  base->reserve();
  decoder.weights().source = base;
  return decoder;
}

model::Decoder load_sharded(const std::filesystem::path& model_dir, const model::LoadOptions& options,
                            dist::ProcessGroup& group) {
  const io::WeightFiles files = model::open_weights(model::read_model_config(model_dir), model_dir);
  return load_sharded(model_dir, files, options, [](const model::Parameter&) { return false; }, group);
}

}  // namespace adept::train
