#include "adept/dist/local_processes.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <system_error>
#include <thread>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/dist/store.h"
#include "adept/dist/watch.h"

namespace adept::dist {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

// After the first failure. The others then report why they end; after a signal they save.
constexpr seconds kUntilTerm(10), kUntilKill(20);
constexpr seconds kUntilStoppedAreKilled(2);  // which can do neither
constexpr std::chrono::milliseconds kPoll(20);
constexpr const char* kAttempt = "0";  // they are not started again

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

/// A listening socket that only this machine can reach.
int listen_on_loopback() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(fd, SOMAXCONN) != 0)
    fail("opening a port of this machine");
  return fd;
}

std::uint16_t port_of(int fd) {
  sockaddr_in address = {};
  socklen_t length = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) fail("reading a port");
  return ntohs(address.sin_port);
}

/// This process's environment with `variables` set.
std::vector<std::string> environment_with(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (!variables.contains(std::string(text.substr(0, text.find('='))))) environment.emplace_back(text);
  }
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);
  return environment;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// Only calls that are safe in the child of a process with threads.
pid_t start(const std::vector<char*>& arguments, const std::vector<char*>& environment) {
  const pid_t parent = ::getpid(), pid = ::fork();
  if (pid < 0) fail("creating a process");
  if (pid > 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::setpgid(0, 0);  // signals of the terminal come once, from the parent
  if (::getppid() != parent) _exit(1);
  ::execve("/proc/self/exe", arguments.data(), environment.data());
  _exit(static_cast<int>(ExitCode::kFailure));
}

/// How a process ended.
struct Ending {
  int exit_code = 0;
  bool was_killed = false;
  std::string text;  ///< names the rank
};

/// `status`: of waitpid. `is_killed`: by this program.
Ending ending_of(int rank, int status, bool is_killed) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    if (is_killed && signal == SIGKILL)
      return {.exit_code = kSignalExitCode + signal,
              .was_killed = true,
              .text = fmt::format("rank {} did not end after the failure of another one, so it was killed", rank)};
    return {.exit_code = kSignalExitCode + signal,
            .was_killed = true,
            .text = fmt::format("rank {} was killed by signal {} ({})", rank, signal, ::strsignal(signal))};
  }
  const int code = WEXITSTATUS(status);
  return {.exit_code = code, .text = fmt::format("rank {} ended with exit code {}", rank, code)};
}

/// Those that wait for a process learn at once that it ended, unless it told them itself.
void tell_others(c10d::Store& store, const Ending& ending) {
  const int code = ending.was_killed ? static_cast<int>(ExitCode::kFailure) : ending.exit_code;
  tell_job(store, {.exit_code = code, .text = ending.text});
}

/// The processes that run, by number; those left are killed at the end.
class Processes {
 public:
  Processes() = default;
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;
  ~Processes() {
    send(SIGKILL);
    for (const auto& [pid, process] : processes_) ::waitpid(pid, nullptr, 0);
  }

  void add(pid_t pid, int rank) { processes_[pid] = {.rank = rank}; }
  bool empty() const { return processes_.empty(); }
  void send(int signal) {
    for (auto& [pid, process] : processes_) send(signal, pid, process);
  }
  void kill_stopped() {
    for (auto& [pid, process] : processes_)
      if (process.is_stopped && !process.is_killed) send(SIGKILL, pid, process);
  }

  /// Those that ended since the last call.
  std::vector<Ending> collect() {
    std::vector<Ending> endings;
    for (auto it = processes_.begin(); it != processes_.end();) {
      auto& [pid, process] = *it;
      int status = 0;
      if (::waitpid(pid, &status, WNOHANG | WUNTRACED | WCONTINUED) != pid) {
        ++it;
      } else if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
        process.is_stopped = WIFSTOPPED(status);
      } else {
        endings.push_back(ending_of(process.rank, status, process.is_killed));
        it = processes_.erase(it);
      }
    }
    return endings;
  }

 private:
  struct Process {
    int rank = 0;
    bool is_stopped = false, is_killed = false;  ///< killed: by this program
  };

  static void send(int signal, pid_t pid, Process& process) {
    process.is_killed |= signal == SIGKILL;
    ::kill(pid, signal);
  }

  std::map<pid_t, Process> processes_;
};

int wait_for(Processes& processes, c10d::Store& store) {
  int first_failure = 0, forwarded = 0;
  Clock::time_point ended_at{};
  std::optional<int> sent;
  while (!processes.empty()) {
    for (const Ending& ending : processes.collect()) {
      if (ending.was_killed) log_error("{}", ending.text);
      if (ending.exit_code == 0 || first_failure != 0) continue;
      first_failure = ending.exit_code;
      ended_at = Clock::now();
      tell_others(store, ending);
    }
    if (const int signal = pending_signal(); signal != 0 && forwarded == 0) {
      forwarded = signal;
      processes.send(signal);
    }
    if (first_failure != 0) {
      const auto since = Clock::now() - ended_at;
      const std::optional<int> due = since > kUntilKill   ? std::optional(SIGKILL)
                                     : since > kUntilTerm ? std::optional(SIGTERM)
                                                          : std::nullopt;
      if (since > kUntilStoppedAreKilled) processes.kill_stopped();
      if (due != sent && !(due == SIGTERM && forwarded != 0)) processes.send(*due);
      sent = due;
    }
    std::this_thread::sleep_for(kPoll);
  }
  return first_failure;
}

}  // namespace

int run_local_processes(int count, const std::vector<std::string>& arguments) {
  quiet_c10d();
  const int socket = listen_on_loopback();
  c10d::TCPStoreOptions options;
  options.port = port_of(socket);
  options.isServer = true;
  options.waitWorkers = false;
  options.masterListenFd = socket;
  const auto store = of_attempt(c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options), kAttempt);

  std::vector<std::string> words = {"adept"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  const std::vector<char*> argv = pointers_to(words);
  Processes processes;
  for (int rank = 0; rank < count; ++rank) {
    std::vector<std::string> environment = environment_with({{"RANK", std::to_string(rank)},
                                                             {"LOCAL_RANK", std::to_string(rank)},
                                                             {"WORLD_SIZE", std::to_string(count)},
                                                             {"LOCAL_WORLD_SIZE", std::to_string(count)},
                                                             {"MASTER_ADDR", "127.0.0.1"},
                                                             {"MASTER_PORT", std::to_string(options.port)},
                                                             {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                                             {"TORCHELASTIC_RESTART_COUNT", kAttempt}});
    processes.add(start(argv, pointers_to(environment)), rank);
  }
  return wait_for(processes, *store);
}

}  // namespace adept::dist
