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
  struct Expected {
    Launch launch;
    std::chrono::seconds patience;
  };
  std::optional<Expected> expected{};  // until the process joins, or cannot
};

World& the_world() {
  static World world;
  return world;
}

}  // namespace

ProcessGroup& world() { return *the_world().group; }

void expect_to_join(const Launch& launch, std::chrono::seconds patience) {
  if (launch.rank > 0) set_rank(launch.rank);
  const bool is_known_where = !launch.host.empty() && launch.port != 0;
  if (launch.size != 1 && is_known_where) the_world().expected = World::Expected{launch, patience};
}

void join(const Launch& launch, GroupOptions options) {
  expect_to_join(launch);
  the_world().expected.reset();
  the_world().group = std::make_unique<ProcessGroup>(launch, options);
}

void fail(const std::string& message, int exit_code) {
  if (const auto expected = std::exchange(the_world().expected, std::nullopt))
    announce_failure(expected->launch, message, exit_code, expected->patience);
  world().fail(message, exit_code);
}

}  // namespace adept::dist
