#include "adept/nn/transfer.h"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace adept::nn {

at::Tensor empty_on_host(at::IntArrayRef sizes, at::ScalarType type, at::Device device) {
  return at::empty(sizes, at::TensorOptions(type).pinned_memory(!device.is_cpu()));
}

at::Tensor to_device(const at::Tensor& host, at::Device device) {
  if (device.is_cpu()) return host;
  const at::Tensor pinned =
      host.is_pinned() ? host : empty_on_host(host.sizes(), host.scalar_type(), device).copy_(host);
  // ATen keeps pinned memory until the copy is done.
  return pinned.to(device, host.scalar_type(), /*non_blocking=*/true);
}

HostCopy::HostCopy(const at::Tensor& tensor) {
  const at::Device device = tensor.device();
  if (device.is_cpu()) {
    host_ = tensor.contiguous();
    return;
  }
  host_ = empty_on_host(tensor.sizes(), tensor.scalar_type(), device);
  host_.copy_(tensor, /*non_blocking=*/true);
  event_.emplace(device.type());
  event_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

const at::Tensor& HostCopy::values() const {
  if (event_) event_->synchronize();
  return host_;
}

}  // namespace adept::nn
