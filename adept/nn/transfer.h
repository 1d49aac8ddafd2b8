// Copies from the host to a device that the host does not wait for.
#pragma once

#include <ATen/core/Tensor.h>

namespace adept::nn {

/// Uninitialised memory of the host, for what to_device() sends: pinned where `device` is not the CPU.
at::Tensor empty_on_host(at::IntArrayRef sizes, at::ScalarType type, at::Device device);

/// The values of a tensor of the host on `device`: the tensor itself on the CPU. Elsewhere the copy is in the order of
/// the device's work and the host goes on at once. Memory that is not pinned is copied to memory that is.
at::Tensor to_device(const at::Tensor& host, at::Device device);

}  // namespace adept::nn
