// Compiled where torch has CUDA and NCCL's header is found (cmake/Torch.cmake); otherwise no_nccl.cpp is.
#define USE_C10D_NCCL
#define USE_CUDA

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "adept/core/error.h"
#include "adept/dist/backends.h"

namespace adept::dist {

c10::intrusive_ptr<c10d::Backend> make_nccl(const Launch& launch, const c10::intrusive_ptr<c10d::Store>& store,
                                            std::chrono::milliseconds timeout) {
  const c10::impl::VirtualGuardImpl devices(c10::DeviceType::CUDA);
  const int count = devices.deviceCount();
  // A launcher may show each process its own GPU only.
  const int index = count == 1 ? 0 : launch.local_rank;
  if (index >= count)
    throw ConfigError("rank {} is process {} of this machine, which has {} GPUs; expected a GPU for each process.",
                      launch.rank, launch.local_rank, count);
  devices.setDevice({c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)});
  // Its own thread would abort the process, which torchrun asks for; the watch finds the rank behind the error, and
  // ends the process.
  ::setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/1);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, launch.rank, launch.size, options);
}

}  // namespace adept::dist
