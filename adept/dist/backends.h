// The backends of c10d. Their headers stay in one file each: they take long to compile.
#pragma once

#include <chrono>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "adept/dist/launch.h"

namespace adept::dist {

/// Connects every process with every other. The network is that of $GLOO_SOCKET_IFNAME, else the loopback for a job on
/// one machine, else the one that leads to the store.
c10::intrusive_ptr<c10d::Backend> make_gloo(const Launch& launch, const c10::intrusive_ptr<c10d::Store>& store,
                                            std::chrono::milliseconds timeout);

/// For tensors on the GPU of the local rank. Throws ConfigError in a build without NCCL.
c10::intrusive_ptr<c10d::Backend> make_nccl(const Launch& launch, const c10::intrusive_ptr<c10d::Store>& store,
                                            std::chrono::milliseconds timeout);

}  // namespace adept::dist
