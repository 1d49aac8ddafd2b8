// Runs a function in several processes that form a job, as its ranks.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "adept/core/log.h"
#include "adept/dist/process_group.h"

namespace adept::dist::test {

/// How a rank ended.
struct Outcome {
  int exit_code = 0;  ///< 128 + the signal that killed it
  std::string text;   ///< what the function returned, or the message of its exception
  double seconds = 0;
};

/// Listens on a port of this machine that nothing else uses.
class PortInUse {
 public:
  PortInUse() : fd_(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in6 address = {};
    address.sin6_family = AF_INET6;
    socklen_t length = sizeof address;
    if (::bind(fd_, reinterpret_cast<sockaddr*>(&address), length) != 0 || ::listen(fd_, 8) != 0) std::abort();
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    number_ = ntohs(address.sin6_port);
  }
  ~PortInUse() { ::close(fd_); }
  PortInUse(const PortInUse&) = delete;
  PortInUse& operator=(const PortInUse&) = delete;
  std::uint16_t number() const { return number_; }
  int descriptor() const { return fd_; }

 private:
  int fd_;
  std::uint16_t number_ = 0;
};

inline std::uint16_t free_port() { return PortInUse().number(); }

inline Launch launch_of(int rank, int size, std::uint16_t port) {
  return {.rank = rank,
          .size = size,
          .local_rank = rank,
          .local_size = size,
          .cores_shared_by = size,
          .host = "127.0.0.1",
          .port = port};
}

/// A rank in a process of its own, whose output is read.
class Process {
 public:
  explicit Process(const std::function<std::string()>& work) : start_(std::chrono::steady_clock::now()) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    output_ = ends[0];
    pid_ = ::fork();
    if (pid_ == 0) run_and_exit(work, ends[1]);
    ::close(ends[1]);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    ::close(output_);
  }

  void send(int signal) const { ::kill(pid_, signal); }

  Outcome wait() {
    Outcome outcome;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(output_, buffer, sizeof buffer)) > 0;)
      outcome.text.append(buffer, static_cast<std::size_t>(n));
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    outcome.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    return outcome;
  }

 private:
  [[noreturn]] static void run_and_exit(const std::function<std::string()>& work, int output) {
    int exit_code = 0;
    std::string text;
    try {
      text = work();
    } catch (const Error& error) {
      text = error.what();
      exit_code = static_cast<int>(error.exit_code());
    } catch (const std::exception& error) {
      text = error.what();
      exit_code = 99;
    }
    [[maybe_unused]] const auto written = ::write(output, text.data(), text.size());
    std::_Exit(exit_code);
  }

  std::chrono::steady_clock::time_point start_;
  pid_t pid_ = -1;
  int output_ = -1;
};

using RankWork = std::function<std::string(ProcessGroup&)>;

/// Joins, works and leaves, or tells the others why not, as run_program does.
inline std::string run_rank(const Launch& launch, const GroupOptions& options, const RankWork& work) {
  ProcessGroup group(launch, options);
  try {
    std::string text = work(group);
    group.leave();
    return text;
  } catch (const Error& error) {
    group.fail(error.what(), static_cast<int>(error.exit_code()));
    throw;
  } catch (const std::exception& error) {
    group.fail(error.what(), 1);
    throw;
  }
}

/// The ranks of a job that runs `work` in each.
class Job {
 public:
  Job(int size, const RankWork& work, GroupOptions options = {.timeout = 20}) {
    const std::uint16_t port = free_port();
    for (int rank = 0; rank < size; ++rank)
      processes_.push_back(
          std::make_unique<Process>([=] { return run_rank(launch_of(rank, size, port), options, work); }));
  }
  Process& rank(int rank) { return *processes_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<std::unique_ptr<Process>> processes_;
};

/// What every rank of a job returned.
inline std::vector<Outcome> run_job(int size, const RankWork& work, GroupOptions options = {.timeout = 20}) {
  Job job(size, work, options);
  std::vector<Outcome> outcomes;
  for (int rank = 0; rank < size; ++rank) outcomes.push_back(job.rank(rank).wait());
  return outcomes;
}

}  // namespace adept::dist::test
