#include "adept/core/error.h"
#include "adept/dist/backends.h"

namespace adept::dist {

c10::intrusive_ptr<c10d::Backend> make_nccl(const Launch& launch, const c10::intrusive_ptr<c10d::Store>&,
                                            std::chrono::milliseconds) {
  throw ConfigError(
      "device: found cuda in a job of {} processes, but this program was built without NCCL; expected cpu, one "
      "process, "
      "or a build with a CUDA torch and the wheels nvidia-nccl, nvidia-cuda-crt and nvidia-cuda-cccl beside it.",
      launch.size);
}

}  // namespace adept::dist
