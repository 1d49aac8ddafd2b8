#include <memory>

#include "adept/core/log.h"
#include "adept/dist/process_group.h"

namespace adept::dist {
namespace {

std::unique_ptr<ProcessGroup>& world_group() {
  static auto group = std::make_unique<ProcessGroup>();
  return group;
}

}  // namespace

ProcessGroup& world() { return *world_group(); }

void join(const Launch& launch, GroupOptions options) {
  if (launch.rank != 0) set_rank(launch.rank);
  world_group() = std::make_unique<ProcessGroup>(launch, options);
}

}  // namespace adept::dist
