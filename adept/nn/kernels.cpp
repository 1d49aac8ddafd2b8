#include "adept/nn/kernels.h"

#include <atomic>

namespace adept::nn {
namespace {
std::atomic<Kernels> chosen = Kernels::kFused;
}

void set_kernels(Kernels kernels) { chosen = kernels; }
Kernels active_kernels() { return chosen; }

}  // namespace adept::nn
