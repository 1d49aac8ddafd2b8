#include "adept/dist/launch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

namespace adept::dist {
namespace {

constexpr int kMaxProcesses = 1'000'000;
constexpr int kMaxPort = 65535;

std::optional<int> to_int(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Reads variables and collects what is wrong with them.
class Reader {
 public:
  Reader(const Variables& variables, std::string how, const char* rank_name, const char* size_name)
      : variables_(variables), how_(std::move(how)), rank_name_(rank_name), size_name_(size_name) {}

  std::optional<std::string> find(const char* name) const { return variables_(name); }

  std::string text(const char* name, const char* meaning) {
    if (const auto value = find(name)) return *value;
    add_problem(name, fmt::format("is not set; expected {}", meaning));
    return "";
  }

  /// Without `fallback` the variable is required.
  int number(const char* name, int least, int most, std::optional<int> fallback = std::nullopt) {
    const auto value = find(name);
    if (!value && fallback) return *fallback;
    const std::optional<int> number = value ? to_int(*value) : std::nullopt;
    if (number && *number >= least && *number <= most) return *number;
    add_problem(name, fmt::format("{}; expected an integer from {} to {}",
                                  value ? fmt::format("is \"{}\"", *value) : "is not set", least, most));
    return least;
  }

  void require_below(const char* name, int value, const char* limit_name, int limit) {
    if (!problems_.empty() || value < limit) return;
    add_problem(name, fmt::format("is {}; expected less than {}, which is {}", value, limit_name, limit));
    bad_.emplace_back(limit_name);  // either may be the wrong one
  }

  bool is_good(std::string_view name) const { return std::ranges::find(bad_, name) == bad_.end(); }

  /// `launch`: what was read.
  void throw_if_any(Launch launch) const {
    if (problems_.empty()) return;
    if (!is_good(rank_name_)) launch.rank = LaunchError::kUnknownRank;
    if (!is_good(size_name_) || launch.size == 1) launch.size = LaunchError::kUnknownSize;
    if (!is_good("MASTER_PORT") || !is_good("SLURM_JOB_ID") || !is_good("SLURM_STEP_ID")) launch.port = 0;
    if (launch.serves() && launch.host.empty()) launch.host = "localhost";
    throw LaunchError(
        fmt::format("{} set the place of this process in a job, but:\n  {}\nStart the job with torchrun, srun or "
                    "--nproc, or set all of RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; for one process unset "
                    "them.",
                    how_, fmt::join(problems_, "\n  ")),
        std::move(launch));
  }

 private:
  void add_problem(const char* name, const std::string& problem) {
    bad_.emplace_back(name);
    problems_.push_back(fmt::format("{} {}", name, problem));
  }

  const Variables& variables_;
  std::string how_;
  const char *rank_name_, *size_name_;
  std::vector<std::string> bad_, problems_;
};

Launch from_plain_variables(const Variables& variables) {
  Reader reader(variables, "RANK and WORLD_SIZE", "RANK", "WORLD_SIZE");
  Launch launch;
  launch.size = reader.number("WORLD_SIZE", 1, kMaxProcesses);
  launch.rank = reader.number("RANK", 0, kMaxProcesses);
  const bool is_alone = launch.size == 1 && reader.is_good("WORLD_SIZE");
  reader.require_below("RANK", launch.rank, "WORLD_SIZE", launch.size);
  launch.local_rank = reader.number("LOCAL_RANK", 0, kMaxProcesses, 0);
  launch.local_size = reader.number("LOCAL_WORLD_SIZE", 1, kMaxProcesses, launch.local_rank + 1);
  reader.require_below("LOCAL_RANK", launch.local_rank, "LOCAL_WORLD_SIZE", launch.local_size);
  // A process that is not rank 0 of one is of a job, although its WORLD_SIZE is 1.
  if (!is_alone || (!reader.is_good("RANK") && reader.find("MASTER_ADDR"))) {
    launch.host = reader.text("MASTER_ADDR", "the host name or address of rank 0");
    launch.port = static_cast<std::uint16_t>(reader.number("MASTER_PORT", 1, kMaxPort));
    launch.has_server = variables("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
    launch.attempt = variables("TORCHELASTIC_RESTART_COUNT").value_or("");
  }
  reader.throw_if_any(launch);
  launch.cores_shared_by = launch.local_size;
  return launch;
}

/// Steps of one job may run at the same time. Below the ports that the system gives to outgoing connections.
int slurm_port(int job, int step) {
  constexpr int kFirstPort = 15000, kPorts = 15000, kStepDistance = 7;
  return kFirstPort + (job % kPorts + step % kPorts * kStepDistance) % kPorts;
}

Launch from_slurm(const Variables& variables) {
  Reader reader(variables, "Slurm's variables", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  constexpr int kAny = std::numeric_limits<int>::max();
  Launch launch;
  launch.size = reader.number("SLURM_STEP_NUM_TASKS", 1, kMaxProcesses);
  if (launch.size == 1 && reader.is_good("SLURM_STEP_NUM_TASKS")) return launch;
  launch.rank = reader.number("SLURM_PROCID", 0, kMaxProcesses);
  reader.require_below("SLURM_PROCID", launch.rank, "SLURM_STEP_NUM_TASKS", launch.size);
  launch.local_rank = reader.number("SLURM_LOCALID", 0, kMaxProcesses);
  const int node = reader.number("SLURM_NODEID", 0, kMaxProcesses, 0);
  const auto tasks = detail::tasks_of_node(variables("SLURM_STEP_TASKS_PER_NODE").value_or(""), node);
  launch.local_size = tasks.value_or(launch.local_rank + 1);
  reader.require_below("SLURM_LOCALID", launch.local_rank, "the number of tasks on this node", launch.local_size);
  if (const auto host = variables("MASTER_ADDR")) {
    launch.host = *host;
  } else if (tasks == launch.size) {
    launch.host = "127.0.0.1";  // Slurm's name of a node need not be that of a host
  } else {
    auto nodes = variables("SLURM_STEP_NODELIST");
    if (!nodes) nodes = variables("SLURM_NODELIST");
    launch.host = nodes ? detail::first_host(*nodes) : reader.text("SLURM_STEP_NODELIST", "the nodes of the step");
  }
  if (variables("MASTER_PORT"))
    launch.port = static_cast<std::uint16_t>(reader.number("MASTER_PORT", 1, kMaxPort));
  else
    launch.port = static_cast<std::uint16_t>(
        slurm_port(reader.number("SLURM_JOB_ID", 0, kAny), reader.number("SLURM_STEP_ID", 0, kAny, 0)));
  reader.throw_if_any(launch);
  const bool has_own_cores = variables("SLURM_CPUS_PER_TASK").has_value() ||
                             variables("SLURM_CPU_BIND").value_or("").find("mask_cpu") != std::string::npos;
  launch.cores_shared_by = has_own_cores ? 1 : launch.local_size;
  return launch;
}

}  // namespace

std::string detail::first_host(std::string_view nodes) {
  std::string host;
  for (std::size_t i = 0; i < nodes.size() && nodes[i] != ','; ++i) {
    if (nodes[i] != '[') {
      host += nodes[i];
      continue;
    }
    const auto end = nodes.find(']', i);
    const std::string_view numbers = nodes.substr(i + 1, end == std::string_view::npos ? end : end - i - 1);
    host += numbers.substr(0, numbers.find_first_of(",-"));
    if (end == std::string_view::npos) break;
    i = end;
  }
  return host;
}

std::optional<int> detail::tasks_of_node(std::string_view tasks, int node) {
  while (!tasks.empty()) {
    const auto comma = tasks.find(',');
    std::string_view group = tasks.substr(0, comma);
    int nodes = 1;
    if (const auto open = group.find("(x"); open != std::string_view::npos && group.ends_with(')')) {
      const auto count = to_int(group.substr(open + 2, group.size() - open - 3));
      if (!count) return std::nullopt;
      nodes = *count;
      group = group.substr(0, open);
    }
    const auto count = to_int(group);
    if (!count || *count < 1 || nodes < 1) return std::nullopt;
    if (node < nodes) return count;
    node -= nodes;
    tasks = comma == std::string_view::npos ? "" : tasks.substr(comma + 1);
  }
  return std::nullopt;
}

Launch read_launch(const Variables& variables) {
  if (variables("RANK") || variables("WORLD_SIZE")) return from_plain_variables(variables);
  if (variables("SLURM_STEP_NUM_TASKS")) return from_slurm(variables);
  return {};
}

Launch read_launch() {
  return read_launch([](const char* name) -> std::optional<std::string> {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  });
}

}  // namespace adept::dist
