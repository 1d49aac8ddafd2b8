// Gives signs of life to the other processes of a job and looks for theirs, over a connection to the store of its own,
// so that it goes on while the main thread computes or waits. One thread talks to the store. A second one never waits
// for the store, which may hang itself.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

#include "adept/dist/launch.h"

namespace adept::dist {

/// Why the job ends.
struct JobFailure {
  int exit_code = 1;
  std::string text;  ///< names the rank
};

/// That the process of `launch` ends with an error.
JobFailure failure_of(const Launch& launch, const std::string& message, int exit_code);

/// Makes `failure` that of the job, unless there is one, and returns that of the job. Throws c10::Error if the store is
/// not reached.
JobFailure publish_failure(c10d::Store& store, const JobFailure& failure);
/// The same with a warning instead of an exception.
void tell_job(c10d::Store& store, const JobFailure& failure);

/// Opens the store for the next command of a process, which may serve it. A script may start several commands at one
/// place: each has a store of its own. At that of torchrun, it changes `launch.attempt`; otherwise it waits until rank
/// 0 has ended the last command. Throws as open_store does.
c10::intrusive_ptr<c10d::Store> open_store_of_command(Launch& launch, std::chrono::milliseconds timeout);

/// For a process that fails before it can join: makes its failure that of the job, if it reaches the store within
/// `patience`. The process that serves the store waits until all others know it, for as long. Does nothing if no
/// process is missing that this one can be: it may be of another job. `launch` may be incomplete (LaunchError).
void announce_failure(Launch launch, const std::string& message, int exit_code, std::chrono::seconds patience);

/// Signs of life also say which signal arrived; it then counts as one that arrived at every rank (take_signal).
class Watch : public std::enable_shared_from_this<Watch> {
 public:
  using Clock = std::chrono::steady_clock;

  /// `ends_process`: GroupOptions.
  static std::shared_ptr<Watch> start(const Launch& launch, c10::intrusive_ptr<c10d::Store> store,
                                      std::chrono::milliseconds timeout, bool ends_process);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// A new operation starts; others learn how many were.
  void count_operation() { ++num_operations_; }

  /// Known as soon as this process sees it in the store, or does not reach the store.
  std::optional<JobFailure> failure() const;
  /// Makes `failure` that of the job, unless there is one, and returns that of the job.
  JobFailure report(const JobFailure& failure);
  /// The failure behind an operation that failed here with `problem`: the one that a rank reported, else of a rank that
  /// is silent or behind. Waits a few intervals to find out.
  JobFailure find_cause(const std::string& operation, const std::string& problem);

  /// From now on asks for the problem of a backend whose operations do not wait, and so cannot throw; empty: none.
  void ask(std::function<std::string()> backend_problem);

  /// Whether another rank misses signs of life that a living one gives. The time-out is not over yet.
  bool misses_signs() const;

  /// Of signs of life.
  std::chrono::milliseconds interval() const { return interval_; }
  /// Ends the threads. `leaves`: the others need not expect signs of life any more; the process with the server waits
  /// for them.
  void stop(bool leaves);
  /// Until all ranks know the failure, at most for a few intervals.
  void wait_until_known();

 private:
  struct Peer {
    std::string sign;
    Clock::time_point changed = Clock::now();
    std::int64_t num_operations = 0;
    bool left = false;
  };
  using Lock = std::unique_lock<std::mutex>;

  Watch(const Launch& launch, c10::intrusive_ptr<c10d::Store> store, std::chrono::milliseconds timeout,
        bool ends_process);
  // Of the thread that talks.
  void talk();
  void beat();
  void publish();
  void look();
  void look_at(int rank);
  void say_goodbye();
  // Of the other one.
  void guard();
  void ask_backend(Lock& lock);
  void end_process_if_late(Lock& lock);

  std::vector<int> silent_for(std::chrono::milliseconds time) const;
  std::string silence_of(const std::string& who) const;
  void learn(const JobFailure& failure);

  const Launch launch_;
  const c10::intrusive_ptr<c10d::Store> store_;
  const std::chrono::milliseconds timeout_, interval_;
  const bool ends_process_;
  std::atomic<std::int64_t> num_operations_ = 0;
  std::atomic<bool> looks_at_all_ = false;
  std::int64_t num_beats_ = 0;

  mutable std::mutex mutex_;  // for all that follows
  std::condition_variable changed_;
  bool stops_ = false, leaves_ = false, has_stopped_talking_ = false;
  std::vector<Peer> peers_;
  std::optional<JobFailure> failure_, outgoing_;
  std::int64_t num_that_know_ = 0;
  Clock::time_point failed_at_{}, answered_at_ = Clock::now();
  std::function<std::string()> backend_problem_;
  std::thread guard_;
};

}  // namespace adept::dist
