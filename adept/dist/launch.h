// Which process of a job this one is, by the environment variables of the program that started it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "adept/core/error.h"

namespace adept::dist {

/// The place of a process in its job, and where the processes meet.
struct Launch {
  int rank = 0;        ///< 0 .. size-1
  int size = 1;        ///< processes of the job
  int local_rank = 0;  ///< 0 .. local_size-1
  int local_size = 1;  ///< processes of the job on this machine
  /// Processes that share the cores of this one. Slurm may have given each its own.
  int cores_shared_by = 1;
  std::string host{};       ///< of the store at which the processes meet
  std::uint16_t port = 0;   ///< likewise
  bool has_server = false;  ///< the program that started the processes is the server; otherwise rank 0 is
  std::string attempt{};    ///< differs between the starts of a job that share a store

  /// Whether this process is the server of the store.
  bool serves() const { return !has_server && rank == 0; }
  bool is_one_machine() const { return local_size == size; }
  /// Of the processes that share cores: the one that uses all of them while the others wait.
  bool is_first_on_its_cores() const { return local_rank % cores_shared_by == 0; }
};

/// The variables that say which process of a job this one is are missing or wrong; the message lists all of them.
class LaunchError : public ConfigError {
 public:
  static constexpr int kUnknownRank = -1, kUnknownSize = 0;

  LaunchError(const std::string& message, Launch known) : ConfigError(message), known_(std::move(known)) {}
  /// What is right of them: where the processes meet, if that has a host and a port; the rank and the size may be
  /// unknown.
  const Launch& known() const { return known_; }

 private:
  Launch known_;
};

/// The value of an environment variable; nothing if it is unset or empty.
using Variables = std::function<std::optional<std::string>(const char* name)>;

/// Reads, in this order:
///
///  * RANK and WORLD_SIZE, with LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT: what torchrun sets, or the
///    user. TORCHELASTIC_USE_AGENT_STORE says that torchrun is the server.
///  * SLURM_STEP_NUM_TASKS and SLURM_PROCID: what srun sets. The processes meet on this machine if
///    it has all of them, else on the first node of the step; MASTER_ADDR and MASTER_PORT take precedence. A batch
///    script without srun is one process.
///  * neither: one process.
///
/// Throws one LaunchError for all problems.
Launch read_launch(const Variables& variables);
/// The same from the environment of this process.
Launch read_launch();

namespace detail {
/// The first host of Slurm's list: "node[03-05,9],gpu1" -> "node03".
std::string first_host(std::string_view nodes);
/// The number of tasks on a node by SLURM_STEP_TASKS_PER_NODE: "4(x2),3" -> 4, 4, 3. Nothing for another text.
std::optional<int> tasks_of_node(std::string_view tasks, int node);
}  // namespace detail

}  // namespace adept::dist
