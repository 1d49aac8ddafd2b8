#include "adept/dist/process_group.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <span>
#include <sstream>
#include <thread>
#include <utility>

#include "adept/core/signals.h"
#include "adept/dist/backends.h"
#include "adept/dist/store.h"
#include "adept/dist/watch.h"

namespace adept::dist {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLongestPause(50);  // between looks at the store
constexpr const char *kHelp = "help", *kEnd = "end";

milliseconds to_milliseconds(double s) { return milliseconds(std::llround(s * 1000)); }

std::span<char> bytes_of(const at::Tensor& tensor) {
  return {static_cast<char*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

/// A copy of `text` in `size` bytes.
at::Tensor to_tensor(const std::string& text, std::size_t size) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(size)}, at::kByte);
  std::memcpy(tensor.data_ptr(), text.data(), std::min(size, text.size()));
  return tensor;
}

std::string problem_of(c10d::ErrorType error) {
  switch (error) {
    case c10d::ErrorType::SUCCESS:
      return "";
    case c10d::ErrorType::TIMEOUT:
      return "an operation did not end within dist.timeout";
    default:
      return "the connection to another rank failed";
  }
}

RankError to_error(const JobFailure& failure) {
  return RankError(failure.text, static_cast<ExitCode>(failure.exit_code));
}

}  // namespace

/// What a group of several processes has. Backends end before the store that they use.
struct ProcessGroup::Members {
  ~Members() {
    if (watch) watch->stop(false);
  }
  c10::intrusive_ptr<c10d::Store> store;
  std::shared_ptr<Watch> watch;
  c10::intrusive_ptr<c10d::Backend> gloo, nccl;
  std::int64_t num_turns = 0;  // of on_first
};

class Pending::Work {
 public:
  /// `is_on_gpu`: wait() makes the GPU wait, not this thread.
  Work(Watch& watch, std::string name, bool is_on_gpu, c10::intrusive_ptr<c10d::Work> work)
      : watch_(watch), name_(std::move(name)), is_on_gpu_(is_on_gpu), work_(std::move(work)) {}

  void wait() {
    while (!is_done())
      if (const auto failure = watch_.failure()) throw to_error(*failure);
  }

 private:
  /// Waits for one interval: a failure is known earlier than the backend notices it.
  bool is_done() {
    try {
      work_->wait(is_on_gpu_ ? kNoTimeout : watch_.interval());
      return true;
    } catch (const std::exception& error) {
      const bool has_failed = is_on_gpu_ || (work_->isCompleted() && !work_->isSuccess());
      if (has_failed) throw to_error(watch_.find_cause(name_, first_line(error)));
      return false;
    }
  }

  Watch& watch_;
  std::string name_;
  bool is_on_gpu_;
  c10::intrusive_ptr<c10d::Work> work_;
};

Pending::Pending() = default;
Pending::Pending(std::unique_ptr<Work> work) : work_(std::move(work)) {}
Pending::Pending(Pending&&) noexcept = default;
Pending& Pending::operator=(Pending&&) noexcept = default;
Pending::~Pending() = default;

void Pending::wait() {
  if (work_) std::exchange(work_, nullptr)->wait();
}

ProcessGroup::ProcessGroup() = default;

ProcessGroup::ProcessGroup(const Launch& launch, const GroupOptions& options) : launch_(launch), options_(options) {
  if (launch.size == 1) return;
  const milliseconds timeout = to_milliseconds(options.timeout);
  members_ = std::make_unique<Members>();
  members_->store = open_store_of_command(launch_, timeout);
  require_own_rank();
  members_->watch =
      Watch::start(launch_, open_store(launch_, timeout, /*may_serve=*/false), timeout, options.ends_process);
  try {
    require_same_size();
    wait_for_all_to_join();
    connect();
  } catch (const Error& error) {  // the others learn it; nobody else tells them, as this process is no member yet
    fail(error.what(), static_cast<int>(error.exit_code()));
    throw;
  }
}

void ProcessGroup::connect() {
  const milliseconds timeout = to_milliseconds(options_.timeout);
  try {
    members_->gloo = make_gloo(launch_, members_->store, timeout);
    if (!options_.uses_gpu) return;
    members_->nccl = make_nccl(launch_, members_->store, timeout);
    members_->watch->ask([&nccl = *members_->nccl] { return problem_of(nccl.getError()); });
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // of c10 or Gloo
    throw_cause("connecting", first_line(error));
  }
}

// Before anything is written that the job at this store could take for its own.
void ProcessGroup::require_own_rank() {
  if (claim_rank(*members_->store, rank())) return;
  throw DataError(
      "another process is rank {} of the job at {} already. Use another MASTER_PORT if that is another job, or another "
      "RANK for each process.",
      rank(), describe_store(launch_));
}

// The first rank that comes says how many there are.
void ProcessGroup::require_same_size() {
  const ClaimedSize claimed = claim_size(*members_->store, size(), rank());
  if (claimed.size == size()) return;
  throw DataError(
      "the number of processes: found {} at rank {}, and {} at rank {} (WORLD_SIZE, or Slurm's variables); expected "
      "the "
      "same at every rank.",
      size(), rank(), claimed.size, claimed.rank);
}

ProcessGroup::~ProcessGroup() = default;

void ProcessGroup::throw_cause(const char* name, const std::string& problem) {
  throw to_error(members_->watch->find_cause(name, problem));
}

void ProcessGroup::wait_for_all_to_join() {
  const auto key = [](int rank) { return fmt::format("joined/{}", rank); };
  c10d::Store& store = *members_->store;
  try {
    store.set(key(rank()), "1");
    const auto deadline = Watch::Clock::now() + to_milliseconds(options_.timeout);
    std::vector<int> missing;
    for (int r = 0; r < size(); ++r) missing.push_back(r);
    while (true) {
      std::erase_if(missing, [&](int r) { return store.check({key(r)}); });
      if (missing.empty()) return;
      adept::throw_if_interrupted();
      if (const auto failure = members_->watch->failure()) throw to_error(*failure);
      if (Watch::Clock::now() > deadline) break;
      std::this_thread::sleep_for(std::min<milliseconds>(members_->watch->interval(), milliseconds(200)));
    }
    throw to_error(members_->watch->report(
        {.text =
             fmt::format("of {} processes, rank {} did not come to {} within {:g} s (dist.timeout). Check that every "
                         "process was started, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE",
                         size(), fmt::join(missing, ", "), describe_store(launch_), options_.timeout)}));
  } catch (const c10::Error& error) {
    throw_cause("joining", first_line(error));
  }
}

template <typename Operation>
Pending ProcessGroup::start(const char* name, const at::Tensor& tensor, Operation operation) {
  if (const auto failure = members_->watch->failure()) throw to_error(*failure);
  c10d::Backend& backend = tensor.is_cuda() ? *members_->nccl : *members_->gloo;
  members_->watch->count_operation();
  try {
    return Pending(std::make_unique<Pending::Work>(*members_->watch, name, tensor.is_cuda(), operation(backend)));
  } catch (const c10::Error& error) {
    throw_cause(name, first_line(error));
  }
}

Pending ProcessGroup::start_all_reduce(const at::Tensor& tensor) {
  if (!members_) return Pending();
  return start("adding gradients", tensor, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {tensor};
    return backend.allreduce(tensors);
  });
}

void ProcessGroup::all_reduce(const at::Tensor& tensor) { start_all_reduce(tensor).wait(); }

void ProcessGroup::reduce_to_first(const at::Tensor& tensor) {
  if (!members_) return;
  start("gathering on rank 0", tensor, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {tensor};
    return backend.reduce(tensors, {.rootRank = 0});
  }).wait();
}

void ProcessGroup::broadcast(const at::Tensor& tensor, int from) {
  if (!members_) return;
  start("broadcasting", tensor, [&](c10d::Backend& backend) {
    std::vector<at::Tensor> tensors = {tensor};
    return backend.broadcast(tensors, {.rootRank = from});
  }).wait();
}

void ProcessGroup::all_gather(const at::Tensor& whole, const at::Tensor& part) { start_all_gather(whole, part).wait(); }

Pending ProcessGroup::start_all_gather(const at::Tensor& whole, const at::Tensor& part) {
  ADEPT_CHECK(whole.is_contiguous() && whole.numel() == part.numel() * size(), "{} elements of {} ranks for {}",
              part.numel(), size(), whole.numel());
  if (!members_) {
    if (whole.data_ptr() != part.data_ptr()) whole.copy_(part.view_as(whole));
    return Pending();
  }
  return start("gathering", part, [&](c10d::Backend& backend) {
    at::Tensor output = whole.view({-1}), input = part.contiguous().view({-1});
    return backend._allgather_base(output, input);
  });
}

Pending ProcessGroup::start_all_to_all(const at::Tensor& received, const at::Tensor& sent) {
  ADEPT_CHECK(received.is_contiguous() && sent.is_contiguous() && received.numel() == sent.numel() &&
                  sent.numel() % size() == 0,
              "{} elements for {} from {} ranks", sent.numel(), received.numel(), size());
  if (!members_) {
    received.copy_(sent.view_as(received));
    return Pending();
  }
  return start("exchanging parts", sent, [&](c10d::Backend& backend) {
    at::Tensor output = received.view({-1}), input = sent.view({-1});
    std::vector<std::int64_t> equal_parts;
    return backend.alltoall_base(output, input, equal_parts, equal_parts);
  });
}

void ProcessGroup::barrier() {
  if (!members_) return;
  const at::Tensor nothing = at::empty({1}, at::kByte);
  start("a barrier", nothing, [&](c10d::Backend& backend) { return backend.barrier(); }).wait();
}

std::string ProcessGroup::broadcast(const std::string& text, int from) {
  if (!members_) return text;
  const bool sends = rank() == from;
  const at::Tensor length = at::empty({1}, at::kLong);
  *length.mutable_data_ptr<std::int64_t>() = std::ssize(text);
  broadcast(length, from);
  const auto num_bytes = static_cast<std::size_t>(*length.const_data_ptr<std::int64_t>());
  if (num_bytes == 0) return "";
  const at::Tensor bytes = to_tensor(sends ? text : "", num_bytes);
  broadcast(bytes, from);
  const std::span<char> result = bytes_of(bytes);
  return {result.begin(), result.end()};
}

std::vector<std::string> ProcessGroup::all_gather(const std::string& text) {
  if (!members_) return {text};
  std::size_t longest = 1;
  const auto lengths = all_gather(std::vector<double>{static_cast<double>(text.size())});
  for (const auto& length : lengths) longest = std::max(longest, static_cast<std::size_t>(length[0]));
  const at::Tensor whole = at::empty({size(), static_cast<std::int64_t>(longest)}, at::kByte);
  all_gather(whole, to_tensor(text, longest));
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < lengths.size(); ++r)
    texts.emplace_back(bytes_of(whole).data() + r * longest, static_cast<std::size_t>(lengths[r][0]));
  return texts;
}

std::vector<std::vector<double>> ProcessGroup::all_gather(const std::vector<double>& numbers) {
  if (!members_ || numbers.empty()) return std::vector<std::vector<double>>(static_cast<std::size_t>(size()), numbers);
  const auto count = std::ssize(numbers);
  const at::Tensor part = at::empty({count}, at::kDouble), whole = at::empty({size(), count}, at::kDouble);
  std::ranges::copy(numbers, part.mutable_data_ptr<double>());
  all_gather(whole, part);
  std::vector<std::vector<double>> result;
  const auto* next = whole.const_data_ptr<double>();
  for (int r = 0; r < size(); ++r, next += count) result.emplace_back(next, next + count);
  return result;
}

double ProcessGroup::sum(double number) {
  double total = 0;
  for (const auto& numbers : all_gather(std::vector<double>{number})) total += numbers[0];
  return total;
}

double ProcessGroup::max(double number) {
  for (const auto& numbers : all_gather(std::vector<double>{number})) number = std::max(number, numbers[0]);
  return number;
}

// Signals are left to the caller, because rank 0, which is waited for, learns of them too; unless it is dead.
std::string ProcessGroup::wait_for(const std::string& key) {
  const milliseconds longest = std::min<milliseconds>(members_->watch->interval(), kLongestPause);
  for (milliseconds pause(1);; pause = std::min(longest, 2 * pause)) {
    if (const auto failure = members_->watch->failure()) throw to_error(*failure);
    if (pending_signal() != 0 && members_->watch->misses_signs()) throw_cause("waiting", "interrupted by a signal");
    try {
      if (members_->store->check({key})) return members_->store->get_to_str(key);
    } catch (const c10::Error& error) {
      throw_cause("waiting", first_line(error));
    }
    std::this_thread::sleep_for(pause);
  }
}

void ProcessGroup::put(const std::string& key, const std::string& value) {
  try {
    members_->store->set(key, value);
  } catch (const c10::Error& error) {
    throw_cause("reporting", first_line(error));
  }
}

std::string ProcessGroup::next_turn() { return fmt::format("turn/{}", members_->num_turns++); }

void ProcessGroup::on_first(FunctionRef<void()> work) {
  on_first([&](Help) { work(); }, [](std::int64_t) {});
}

// Rank 0 tells of each turn what it is: "help N", or "end S" with the signal that interrupted it, or 0.
void ProcessGroup::on_first(FunctionRef<void(Help)> work, Help help) {
  if (!members_) return work(help);
  while (!is_first()) {
    std::istringstream turn(wait_for(next_turn()));
    std::string kind;
    std::int64_t number = 0;
    turn >> kind >> number;
    if (kind == kHelp)
      help(number);
    else if (number != 0)
      throw interrupted_by(static_cast<int>(number));
    else
      return;
  }
  const auto tell = [&](const char* kind, std::int64_t number) {
    put(next_turn(), fmt::format("{} {}", kind, number));
  };
  try {
    work([&](std::int64_t number) {
      tell(kHelp, number);
      help(number);
    });
  } catch (const InterruptedError& error) {
    tell(kEnd, signal_of(error));
    throw;
  }
  tell(kEnd, 0);
}

void ProcessGroup::meet() {
  if (!members_) return;
  const std::string key = "met/" + next_turn(), all = key + "/all";
  std::int64_t num_here = 0;
  try {
    num_here = members_->store->add(key, 1);
  } catch (const c10::Error& error) {
    throw_cause("meeting", first_line(error));
  }
  if (num_here == size()) put(all, "1");
  wait_for(all);
}

void ProcessGroup::throw_if_interrupted() {
  if (!members_) return adept::throw_if_interrupted();
  const auto signal = static_cast<int>(max(pending_signal()));
  if (signal != 0) throw interrupted_by(signal);
}

void ProcessGroup::fail(const std::string& message, int exit_code) {
  if (!members_) return;
  Watch& watch = *members_->watch;
  if (!watch.failure()) watch.report(failure_of(launch_, message, exit_code));
  if (launch_.serves()) watch.wait_until_known();
  watch.stop(false);
}

void ProcessGroup::leave() {
  if (members_) members_->watch->stop(true);
}

}  // namespace adept::dist
