#include <memory>
#include <optional>
#include <utility>

#include "adept/core/log.h"
#include "adept/dist/process_group.h"
#include "adept/dist/watch.h"

namespace adept::dist {
namespace {

struct World {
  std::unique_ptr<ProcessGroup> group = std::make_unique<ProcessGroup>();
  std::optional<Launch> expected{};  // until the process joins, or cannot
};

World& the_world() {
  static World world;
  return world;
}

}  // namespace

ProcessGroup& world() { return *the_world().group; }

void expect_to_join(const Launch& launch) {
  if (launch.rank != 0) set_rank(launch.rank);
  if (launch.size > 1) the_world().expected = launch;
}

void join(const Launch& launch, GroupOptions options) {
  expect_to_join(launch);
  the_world().expected.reset();
  the_world().group = std::make_unique<ProcessGroup>(launch, options);
}

void fail(const std::string& message, int exit_code) {
  if (const auto launch = std::exchange(the_world().expected, std::nullopt))
    announce_failure(*launch, failure_of_rank(launch->rank, message, exit_code));
  world().fail(message, exit_code);
}

}  // namespace adept::dist
