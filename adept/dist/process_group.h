// The processes of a job, over PyTorch's c10d: Gloo for tensors on the CPU, NCCL for those on GPUs. A process that was
// started alone is a group of one, in which every operation does nothing: callers need not ask how many there are, and
// do so only to save a copy, or to refuse what needs or forbids several.
//
// Every rank calls the same operations in the same order. An operation that fails because of another rank throws
// RankError with that rank and what happened to it.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/function_ref.h"
#include "adept/dist/launch.h"

namespace adept::dist {

/// Another rank ended, stopped, or did not arrive within the time-out.
class RankError : public Error {
 public:
  using Error::Error;
};

/// What all ranks must have alike: a value, and where this rank has it from. Places are for messages; they may differ.
struct Held {
  std::string value;
  std::string place{};
};
/// By name, such as a key of the configuration or a tensor.
using HeldByName = std::map<std::string, Held>;

/// The ranks differ in what they must have alike.
class DisagreementError : public DataError {
 public:
  using DataError::DataError;
};

struct GroupOptions {
  double timeout = 600;       ///< seconds that a rank may take to arrive at an operation, or give no sign of life
  bool uses_gpu = false;      ///< tensors on GPUs are communicated too: by NCCL, on the GPU of the local rank
  bool ends_process = false;  ///< ends the process if another rank failed and this one does not end by itself
};

/// An operation that was started. Destroying it without wait() is for exceptions only.
class Pending {
 public:
  class Work;
  Pending();
  explicit Pending(std::unique_ptr<Work> work);
  Pending(Pending&&) noexcept;
  Pending& operator=(Pending&&) noexcept;
  ~Pending();
  /// Until the result is there.
  void wait();

 private:
  std::unique_ptr<Work> work_;
};

class ProcessGroup {
 public:
  /// The group of one process.
  ProcessGroup();
  /// Joins the job and waits for all of its processes. Throws DataError if the store cannot be opened or reached,
  /// RankError if a process does not come within the time-out.
  ProcessGroup(const Launch& launch, const GroupOptions& options);
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return launch_.rank; }
  int size() const { return launch_.size; }
  const Launch& launch() const { return launch_; }
  bool is_first() const { return rank() == 0; }

  /// Sum over the ranks, in place. Every rank gets the same bits.
  void all_reduce(const at::Tensor& tensor);
  Pending start_all_reduce(const at::Tensor& tensor);
  /// The same, of which only rank 0 gets the result; the values of the others are lost.
  void reduce_to_first(const at::Tensor& tensor);
  /// The tensor of rank `from`.
  void broadcast(const at::Tensor& tensor, int from = 0);
  /// `parts` of all ranks, which have the same size, one after another. `whole` is contiguous.
  void all_gather(const at::Tensor& whole, const at::Tensor& part);
  Pending start_all_gather(const at::Tensor& whole, const at::Tensor& part);
  /// Part r of `sent`, which is cut into size() equal parts, goes to rank r; part r of `received` is from rank r. Both
  /// are contiguous.
  Pending start_all_to_all(const at::Tensor& received, const at::Tensor& sent);
  /// Until all ranks are here.
  void barrier();

  /// The text of rank `from`.
  std::string broadcast(const std::string& text, int from = 0);
  /// The texts of all ranks, in order.
  std::vector<std::string> all_gather(const std::string& text);
  /// The numbers of all ranks, which have as many, in order.
  std::vector<std::vector<double>> all_gather(const std::vector<double>& numbers);
  double sum(double number);
  double max(double number);
  /// The number of rank 0, where all must decide alike.
  double of_first(double number) { return all_gather(std::vector<double>{number}).front().front(); }

  /// Throws DisagreementError on every rank if the values of `held` are not the same everywhere. The message lists the
  /// names that differ, which ranks have which value, and `advice`: what to do. A group of one does not call `held`,
  /// which may take longer than the time-out, as long as the rank gives signs of life.
  void agree(FunctionRef<HeldByName()> held, std::string_view advice = kSameInputs);
  static constexpr std::string_view kSameInputs =
      "Start all of them with the same program, configuration, model and texts.";

  /// Rank 0 works; the others wait, as long as rank 0 gives signs of life. If it is interrupted by a signal, so are the
  /// others; after another exception they get a RankError as soon as it has told them (fail).
  void on_first(FunctionRef<void()> work);
  /// The same for work that needs the others in between: each time that rank 0 calls the function that `work` gets,
  /// every rank calls `help` with the same number.
  using Help = FunctionRef<void(std::int64_t)>;
  void on_first(FunctionRef<void(Help)> work, Help help);
  /// Until all ranks are here, as long as those that are not give signs of life: they may prepare for longer than the
  /// time-out.
  void meet();
  /// Throws InterruptedError on every rank if a signal arrived at any of them.
  void throw_if_interrupted();

  /// Tells the others that this process ends with an error; the first such message and exit code are those of all.
  void fail(const std::string& message, int exit_code);
  /// Leaves after the last operation.
  void leave();

 private:
  struct Members;
  template <typename Operation>
  Pending start(const char* name, const at::Tensor& tensor, Operation operation);
  [[noreturn]] void throw_cause(const char* name, const std::string& problem);
  std::string next_turn();
  std::string wait_for(const std::string& key);
  void put(const std::string& key, const std::string& value);
  void require_own_rank();
  void require_same_size();
  void wait_for_all_to_join();
  void connect();

  Launch launch_;
  GroupOptions options_;
  std::unique_ptr<Members> members_;  // none of a group of one
};

/// Processes of a job that start at the same time have come after this time.
constexpr std::chrono::seconds kUntilOthersCome(60);

/// The group of this process: of one, until join().
ProcessGroup& world();
/// The same without waiting for others: whether this process writes the files of a run.
inline bool is_first() { return world().is_first(); }
/// Says that this process is to join the job that `launch` describes. Its log then shows warnings and errors only, with
/// the rank in front, unless it is rank 0. `launch` may be incomplete (LaunchError). `patience`: how long fail() then
/// tries to reach the others.
void expect_to_join(const Launch& launch, std::chrono::seconds patience = kUntilOthersCome);
/// Makes the job that `launch` describes the group of this process. Includes expect_to_join().
void join(const Launch& launch, GroupOptions options);
/// Tells the other processes of the job that this one ends with an error, also one that was expected to join.
void fail(const std::string& message, int exit_code);

}  // namespace adept::dist
