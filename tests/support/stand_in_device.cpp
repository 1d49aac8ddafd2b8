#include "tests/support/stand_in_device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace adept::test {
namespace {

constexpr auto kType = c10::DeviceType::PrivateUse1;

// ---- Counts. The backward pass runs on a thread of its own.

std::mutex mutex;
std::map<std::string, std::int64_t> waits, calls;

void count(std::map<std::string, std::int64_t>& counts, const std::string& name) {
  const std::lock_guard lock(mutex);
  ++counts[name];
}

bool is_here(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kType; }

// ---- Asynchronous copies to the host.

/// In the order in which they were started.
class LateCopies {
 public:
  /// `to`: pinned.
  void start(const at::Tensor& from, const at::Tensor& to) {
    std::memset(to.data_ptr(), 0x7f, to.nbytes());
    const std::lock_guard lock(mutex_);
    waiting_.push_back({from.clone(), to});
  }
  void arrive() {
    const std::lock_guard lock(mutex_);
    for (const auto& [from, to] : waiting_) to.copy_(from);
    num_done_ += waiting_.size();
    waiting_.clear();
  }
  std::size_t num_started() const {
    const std::lock_guard lock(mutex_);
    return num_done_ + waiting_.size();
  }
  std::size_t num_done() const {
    const std::lock_guard lock(mutex_);
    return num_done_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::pair<at::Tensor, at::Tensor>> waiting_;
  std::size_t num_done_ = 0;
};

LateCopies& late_copies() {
  static LateCopies copies;
  return copies;
}

void wait(const std::string& name) {
  count(waits, name);
  late_copies().arrive();
}

// ---- Memory.

void free_memory(void* data) { c10::free_cpu(data); }

class DeviceMemory : public c10::DeviceAllocator {
 public:
  at::DataPtr allocate(std::size_t bytes) override {
    void* const data = c10::alloc_cpu(bytes);
    return {data, data, &free_memory, kStandIn};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_memory; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const at::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex) override { return {}; }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex) override {}
};

class PinnedMemory : public c10::Allocator {
 public:
  at::DataPtr allocate(std::size_t bytes) override {
    void* const data = c10::alloc_cpu(std::max<std::size_t>(bytes, 1));
    const std::lock_guard lock(mutex);
    blocks()[data] = bytes;
    return {data, data, &give_back, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  static bool contains(const void* data) {
    const std::lock_guard lock(mutex);
    const auto after = blocks().upper_bound(const_cast<void*>(data));
    if (after == blocks().begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return static_cast<const char*>(data) < static_cast<const char*>(begin) + bytes;
  }

 private:
  static std::map<void*, std::size_t>& blocks() {
    static std::map<void*, std::size_t> blocks;
    return blocks;
  }
  static void give_back(void* data) {
    {
      const std::lock_guard lock(mutex);
      blocks().erase(data);
    }
    c10::free_cpu(data);
  }
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;

// ---- What ATen asks of a device.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device) const override { return kStandIn; }
  c10::Device getDevice() const override { return kStandIn; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kStandIn); }
  c10::Stream getDefaultStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kStandIn); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, kStandIn); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  // An event is the number of copies that were started before it.
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (*event == nullptr) *event = new std::size_t;
    *static_cast<std::size_t*>(*event) = late_copies().num_started();
  }
  bool queryEvent(void* event) const override { return *static_cast<std::size_t*>(event) <= late_copies().num_done(); }
  void synchronizeEvent(void* event) const override {
    if (!queryEvent(event)) wait("event");
  }
  void block(void*, const c10::Stream&) const override {}
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override { delete static_cast<std::size_t*>(event); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Device getDeviceFromPtr(void*) const override { return kStandIn; }
  bool isPinnedPtr(const void* data) const override { return PinnedMemory::contains(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
};

const bool is_registered = [] {
  static Guard guard;
  static Hooks hooks;
  c10::register_privateuse1_backend("stand_in");
  c10::SetAllocator(kType, &device_memory);
  c10::impl::registerDeviceGuard(kType, &guard);
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

// ---- Operations: those of the CPU on the same memory.

c10::Storage moved_storage(const at::Tensor& tensor) {
  auto* const owner = new c10::Storage(tensor.storage());
  at::DataPtr data(owner->mutable_data(), owner, [](void* kept) { delete static_cast<c10::Storage*>(kept); }, kStandIn);
  return {c10::Storage::use_byte_size_t(), owner->nbytes(), std::move(data), &device_memory, /*resizable=*/true};
}

/// The arguments of a call on the CPU, and whose memory they are.
class Arguments {
 public:
  c10::IValue to_cpu(const c10::IValue& value) {
    if (value.isTensor()) return to_cpu(value.toTensor());
    if (value.isDevice()) return value.toDevice().type() == kType ? c10::IValue(at::Device(at::kCPU)) : value;
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(to_cpu(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor> tensor : value.toOptionalTensorList())
        list.push_back(tensor ? std::optional(to_cpu(*tensor)) : std::nullopt);
      return list;
    }
    return value;
  }

  c10::IValue to_device(const c10::IValue& value) const {
    if (value.isTensor()) return to_device(value.toTensor());
    if (!value.isTensorList()) return value;
    c10::List<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(to_device(tensor));
    return list;
  }

  /// What was written may have new memory.
  void follow() const {
    for (const auto& [original, alias] : pairs_) {
      auto* const impl = original.unsafeGetTensorImpl();
      if (alias.storage().data() != original.storage().data()) impl->set_storage_keep_dtype(moved_storage(alias));
      if (alias.sizes() != original.sizes() || alias.strides() != original.strides())
        impl->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
    }
  }

 private:
  at::Tensor to_cpu(const at::Tensor& tensor) {
    if (!is_here(tensor)) return tensor;
    return pairs_.emplace_back(tensor, on_cpu(tensor)).second;
  }
  at::Tensor to_device(const at::Tensor& result) const {
    for (const auto& [original, alias] : pairs_) {
      if (result.is_same(alias)) return original;
      if (result.defined() && result.storage().is_alias_of(alias.storage()))  // a view
        return at::native::as_strided_tensorimpl(original, result.sizes(), result.strides(), result.storage_offset());
    }
    return on_device(result);
  }

  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;
};

bool is_mask(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte;
}

void count_waits(const std::string& name, const c10::IValue* arguments, std::size_t num_arguments) {
  static const std::set<std::string> depend_on_values = {"equal",
                                                         "nonzero",
                                                         "masked_select",
                                                         "_unique",
                                                         "_unique2",
                                                         "unique_dim",
                                                         "bincount",
                                                         "unique_consecutive",
                                                         "unique_dim_consecutive",
                                                         "repeat_interleave"};
  const std::string plain = name.substr(name.find("::") + 2);
  count_call(plain);
  if (depend_on_values.contains(plain)) wait(plain);
  if (!plain.starts_with("index") && !plain.starts_with("_index_put")) return;
  for (std::size_t i = 0; i < num_arguments; ++i) {
    if (!arguments[i].isOptionalTensorList()) continue;
    for (const std::optional<at::Tensor> index : arguments[i].toOptionalTensorList())
      if (index && index->defined() && is_mask(*index)) return wait("index with a mask");
  }
}

void on_cpu_memory(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const std::size_t num_arguments = operation.schema().arguments().size();
  const std::size_t begin = stack->size() - num_arguments;
  count_waits(operation.schema().name(), stack->data() + begin, num_arguments);
  Arguments arguments;
  for (std::size_t i = begin; i < stack->size(); ++i) (*stack)[i] = arguments.to_cpu((*stack)[i]);
  operation.callBoxed(*stack);
  for (std::size_t i = begin; i < stack->size(); ++i) (*stack)[i] = arguments.to_device((*stack)[i]);
  arguments.follow();
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   type.value_or(at::kFloat), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> type,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &device_memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type.value_or(at::kFloat));
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
  if (!is_here(to) && non_blocking && to.is_pinned()) {
    late_copies().start(on_cpu(from), to);
    return to;
  }
  if (!is_here(to)) wait("copy to the host");
  if (!is_here(from) && !(non_blocking && from.is_pinned())) wait("copy to the device");
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

at::Scalar local_scalar_dense(const at::Tensor& tensor) {
  wait("_local_scalar_dense");
  return at::_local_scalar_dense(on_cpu(tensor));
}

}  // namespace

at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!is_here(tensor)) return tensor;
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                       at::DataPtr(tensor.storage().mutable_data(), at::kCPU), c10::GetAllocator(at::kCPU),
                       /*resizable=*/true);
  at::Tensor result =
      at::detail::make_tensor<at::TensorImpl>(std::move(storage), c10::DispatchKey::CPU, tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) result.unsafeGetTensorImpl()->set_wrapped_number(true);
  return result;
}

at::Tensor on_device(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  at::Tensor result =
      at::detail::make_tensor<at::TensorImpl>(moved_storage(tensor), c10::DispatchKey::PrivateUse1, tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return result;
}

void count_call(const std::string& operation) { count(calls, operation); }

std::map<std::string, std::int64_t> synchronizations() {
  const std::lock_guard lock(mutex);
  return waits;
}

void reset_synchronizations() {
  const std::lock_guard lock(mutex);
  waits.clear();
  calls.clear();
}

std::int64_t calls_on_device(const std::string& operation) {
  const std::lock_guard lock(mutex);
  const auto found = calls.find(operation);
  return found == calls.end() ? 0 : found->second;
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu_memory>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_copy_from", copy_from);
  m.impl("_local_scalar_dense", local_scalar_dense);
}

}  // namespace adept::test
