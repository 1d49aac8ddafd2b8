// How several processes train together, as the configuration says it.
#pragma once

#include <cstdint>

namespace adept::dist {

struct DistOptions {
  std::int64_t timeout = 600;  ///< seconds; PyTorch's default for NCCL
  bool deterministic = false;  ///< gradients are added in the order of micro-batches, whatever the number of ranks
  bool shard_base = false;     ///< each rank holds its part of the layers, which are gathered when they are needed
};

}  // namespace adept::dist
