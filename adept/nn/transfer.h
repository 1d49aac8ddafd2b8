// Copies between the host and a device that the host does not wait for.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <optional>

namespace adept::nn {

/// Uninitialised memory of the host, for copies to and from `device`: pinned where `device` is not the CPU.
at::Tensor empty_on_host(at::IntArrayRef sizes, at::ScalarType type, at::Device device);

/// The values of a tensor of the host on `device`: the tensor itself on the CPU. Elsewhere the copy is in the order of
/// the device's work and the host goes on at once. Memory that is not pinned is copied to memory that is.
at::Tensor to_device(const at::Tensor& host, at::Device device);

/// A copy of a tensor to the host, in the order of the device's work. On the CPU it is the tensor itself.
class HostCopy {
 public:
  /// Starts it.
  explicit HostCopy(const at::Tensor& tensor);
  bool is_done() const { return !event_ || event_->query(); }
  /// Contiguous. Waits until it is done.
  const at::Tensor& values() const;

 private:
  at::Tensor host_;
  std::optional<c10::Event> event_;  // behind the copy
};

}  // namespace adept::nn
