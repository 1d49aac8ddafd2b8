#include "cli/job.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "adept/core/error.h"
#include "adept/dist/launch.h"
#include "adept/dist/process_group.h"
#include "adept/run/job.h"
#include "cli/options.h"

namespace adept::cli {
namespace {

// --dtype is compared as decided.
constexpr std::string_view kNotCompared[] = {"--threads", "--quiet", "--dtype"};

std::string describe_value(const CLI::Option& option) {
  const std::string value =
      option.count() > 0 ? fmt::format("{}", fmt::join(option.results(), " ")) : option.get_default_str();
  return value.empty() ? "not given" : value;
}

}  // namespace

void add_job_options(CLI::App& command, JobOptions& options) {
  add_nproc_option(command, options.nproc);
  command.add_flag("--shard-base", options.dist.shard_base,
                   "Divide the layers over the processes, for models that do not fit on one device; like "
                   "dist.shard_base: true");
  add_count_option(command, "--timeout", options.dist.timeout, 1, 1'000'000,
                   "Seconds that a process waits for another one that hangs or is slow; like dist.timeout");
}

void join_job(const JobOptions& options, config::Device device) {
  if (options.dist.shard_base && dist::read_launch().size == 1)
    throw ConfigError(
        "--shard-base: found in a command of one process; expected several, which share the layers (--nproc, torchrun, "
        "srun).");
  run::join_job(options.dist, device, "measure");
}

void require_same_command(const CLI::App& command, const config::Compute& compute) {
  dist::world().agree(
      [&] {
        dist::HeldByName held = run::held_by_command("adept " + command.get_name());
        for (const CLI::Option* option : command.get_options()) {
          const std::string name = option->get_name();
          if (std::ranges::find(kNotCompared, name) == std::end(kNotCompared))
            held["option " + name] = {describe_value(*option)};
        }
        held["option --dtype"] = {std::string(config::to_string(compute.dtype))};
        return held;
      },
      "Start all of them with the same program, arguments, model and texts.");
}

}  // namespace adept::cli
