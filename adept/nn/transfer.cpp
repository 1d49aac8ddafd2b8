#include "adept/nn/transfer.h"

#include <ATen/ops/empty.h>

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

}  // namespace adept::nn
