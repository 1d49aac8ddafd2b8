// Compiled where torch has CUDA and NCCL's header is found (cmake/Torch.cmake); otherwise no_nccl.cpp is.
#define USE_C10D_NCCL
#define USE_CUDA

#include <c10/core/impl/VirtualGuardImpl.h>

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "adept/dist/backends.h"

namespace adept::dist {

c10::intrusive_ptr<c10d::Backend> make_nccl(const Launch& launch, const c10::intrusive_ptr<c10d::Store>& store,
                                            std::chrono::milliseconds timeout) {
  const auto index = static_cast<c10::DeviceIndex>(launch.local_rank);
  c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).setDevice({c10::DeviceType::CUDA, index});
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, launch.rank, launch.size, options);
}

}  // namespace adept::dist
