#include "adept/dist/watch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sstream>

#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/dist/store.h"

namespace adept::dist {
namespace {

using std::chrono::milliseconds;

constexpr const char* kFailure = "failure";
constexpr const char* kKnown = "failure_is_known";
constexpr const char* kLeft = "left";
constexpr milliseconds kShortInterval(50);  // after a failure
constexpr int kSilentIntervals = 3;         // that a living rank never misses
constexpr int kPatienceIntervals = 5;       // for a rank to report, or to be found silent

std::string sign_key(int rank) { return fmt::format("alive/{}", rank); }

std::string encode(const JobFailure& failure) { return fmt::format("{} {}", failure.exit_code, failure.text); }

JobFailure decode(const std::string& text) {
  const auto space = text.find(' ');
  return {.exit_code = std::atoi(text.c_str()), .text = space == std::string::npos ? text : text.substr(space + 1)};
}

std::string ranks_text(const std::vector<int>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks", fmt::join(ranks, ", "));
}

milliseconds interval_for(milliseconds timeout) {
  return std::clamp(timeout / 20, milliseconds(100), milliseconds(2000));
}

void warn_that_nobody_knows(const JobFailure& failure, const std::exception& error) {
  log_warning(
      "the other processes were not told that {}: {}. They end within dist.timeout, unless their launcher ends them.",
      failure.text.substr(0, failure.text.find('\n')), first_line(error));
}

}  // namespace

JobFailure failure_of(const Launch& launch, const std::string& message, int exit_code) {
  return {.exit_code = exit_code, .text = fmt::format("{} ended: {}", name_of(launch), message)};
}

JobFailure publish_failure(c10d::Store& store, const JobFailure& failure) {
  return decode(store.compareSet(kFailure, std::string(), encode(failure)));
}

void tell_job(c10d::Store& store, const JobFailure& failure) {
  try {
    publish_failure(store, failure);
  } catch (const std::exception& error) {
    warn_that_nobody_knows(failure, error);
  }
}

namespace {

/// Whether an earlier command of this rank left, or ended with the failure of the job.
bool has_ended(c10d::Store& store, int rank) {
  if (rank == LaunchError::kUnknownRank) return false;
  const std::string sign = sign_key(rank);
  return (store.check({sign}) && store.get_to_str(sign) == kLeft) ||
         (store.check({kFailure}) && is_claimed(store, rank));
}

}  // namespace

c10::intrusive_ptr<c10d::Store> open_store_of_command(Launch& launch, milliseconds timeout) {
  const std::string attempt = launch.attempt;
  const auto deadline = Watch::Clock::now() + timeout;
  for (int number = 1;; ++number) {
    auto store = open_store(launch, timeout, /*may_serve=*/true);
    try {
      if (!has_ended(*store, launch.rank) || Watch::Clock::now() > deadline) return store;
    } catch (const c10::Error& error) {  // without an agent, rank 0 may just end its last command
      if (launch.has_server)
        throw DataError("{}: the store of the job at {} ended: {}. Start the job again.", name_of(launch),
                        describe_store(launch), first_line(error));
    }
    throw_if_interrupted();
    if (launch.has_server)
      launch.attempt = fmt::format("{}.{}", attempt, number);
    else
      std::this_thread::sleep_for(kShortInterval);
  }
}

void announce_failure(Launch launch, const std::string& message, int exit_code, std::chrono::seconds patience) {
  const JobFailure failure = failure_of(launch, message, exit_code);
  try {
    const auto store = open_store_of_command(launch, patience);
    if (!lacks(*store, launch)) return;
    publish_failure(*store, failure);
    store->add(kKnown, 1);
    const auto all_know = [&] {
      const int size = launch.size != LaunchError::kUnknownSize ? launch.size : claimed_size(*store);
      return size != LaunchError::kUnknownSize && store->add(kKnown, 0) >= size;
    };
    if (!launch.serves() || all_know()) return;
    log_info("waiting up to {} s for the other processes, to tell them", patience.count());
    const auto deadline = Watch::Clock::now() + patience;
    while (!all_know() && Watch::Clock::now() < deadline && pending_signal() == 0)
      std::this_thread::sleep_for(kShortInterval);
  } catch (const InterruptedError&) {  // expected while it waits: nobody needs to be told then
  } catch (const std::exception& error) {
    warn_that_nobody_knows(failure, error);
  }
}

std::shared_ptr<Watch> Watch::start(const Launch& launch, c10::intrusive_ptr<c10d::Store> store, milliseconds timeout,
                                    bool ends_process) {
  std::shared_ptr<Watch> watch(new Watch(launch, std::move(store), timeout, ends_process));
  // Detached, because it may wait for the store forever.
  std::thread([watch] { watch->talk(); }).detach();
  watch->guard_ = std::thread([raw = watch.get()] { raw->guard(); });
  return watch;
}

Watch::Watch(const Launch& launch, c10::intrusive_ptr<c10d::Store> store, milliseconds timeout, bool ends_process)
    : launch_(launch),
      store_(std::move(store)),
      timeout_(timeout),
      interval_(interval_for(timeout)),
      ends_process_(ends_process),
      peers_(static_cast<std::size_t>(launch.size)) {}

Watch::~Watch() = default;  // of the last owner: after stop()

void Watch::talk() {
  try {
    for (Lock lock(mutex_); !stops_;) {
      lock.unlock();
      beat();
      publish();
      look();
      lock.lock();
      answered_at_ = Clock::now();
      changed_.wait_for(lock, failure_ ? kShortInterval : interval_,
                        [&] { return stops_ || (outgoing_ && !failure_); });
    }
    if (leaves_) say_goodbye();
  } catch (const std::exception& error) {
    learn({.text = fmt::format(
               "the connection to {} is lost: {} ended without a message, or the network is interrupted "
               "({})",
               describe_store(launch_), launch_.has_server ? "that program" : "rank 0", first_line(error))});
  }
  const Lock lock(mutex_);
  has_stopped_talking_ = true;
  changed_.notify_all();
}

void Watch::beat() {
  store_->set(sign_key(launch_.rank), fmt::format("{} {} {}", ++num_beats_, num_operations_.load(), pending_signal()));
}

void Watch::publish() {
  std::optional<JobFailure> outgoing;
  {
    const Lock lock(mutex_);
    if (!failure_) outgoing = outgoing_;
  }
  if (!outgoing) return;
  learn(publish_failure(*store_, *outgoing));
  store_->add(kKnown, 1);
}

void Watch::look() {
  if (failure()) {
    const std::int64_t num_that_know = store_->add(kKnown, 0);
    const Lock lock(mutex_);
    num_that_know_ = num_that_know;
    changed_.notify_all();
    return;
  }
  if (store_->check({kFailure})) {
    learn(decode(store_->get_to_str(kFailure)));
    store_->add(kKnown, 1);
    return;
  }
  // Rank 0 looks at all, and all at rank 0: the store serves many ranks.
  const int num_looked_at = launch_.rank == 0 || looks_at_all_ ? launch_.size : 1;
  for (int rank = 0; rank < num_looked_at; ++rank)
    if (rank != launch_.rank) look_at(rank);
  const Lock lock(mutex_);
  if (const std::vector<int> silent = silent_for(timeout_); !silent.empty() && !outgoing_)
    outgoing_ = JobFailure{.text = silence_of(ranks_text(silent))};
}

void Watch::look_at(int rank) {
  if (!store_->check({sign_key(rank)})) return;
  const std::string sign = store_->get_to_str(sign_key(rank));
  const Lock lock(mutex_);
  Peer& peer = peers_[static_cast<std::size_t>(rank)];
  if (sign == peer.sign) return;
  peer.sign = sign;
  peer.changed = Clock::now();
  peer.left = sign == kLeft;
  std::istringstream numbers(sign);
  std::int64_t beats = 0;
  int signal = 0;
  if (!peer.left) numbers >> beats >> peer.num_operations >> signal;
  if (signal != 0) take_signal(signal);
}

void Watch::say_goodbye() {
  store_->set(sign_key(launch_.rank), std::string(kLeft));
  store_->add(kLeft, 1);
  if (!launch_.serves()) return;
  const auto deadline = Clock::now() + timeout_;
  while (store_->add(kLeft, 0) < launch_.size && Clock::now() < deadline) std::this_thread::sleep_for(milliseconds(10));
}

/// With the mutex.
std::vector<int> Watch::silent_for(milliseconds time) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < launch_.size; ++rank) {
    const Peer& peer = peers_[static_cast<std::size_t>(rank)];
    const bool is_known = rank != launch_.rank && !peer.sign.empty() && !peer.left;
    if (is_known && Clock::now() - peer.changed > time) ranks.push_back(rank);
  }
  return ranks;
}

bool Watch::misses_signs() const {
  const Lock lock(mutex_);
  return !silent_for(interval_ * kSilentIntervals).empty();
}

std::string Watch::silence_of(const std::string& who) const {
  return fmt::format(
      "{} gave no sign of life for {:g} s (dist.timeout): the process or its machine hangs or was killed, "
      "or the network is interrupted",
      who, static_cast<double>(timeout_.count()) / 1000);
}

void Watch::guard() {
  Lock lock(mutex_);
  // Twice: after a stop of this process itself, the other thread is asked first.
  for (int num_late = 0; !stops_;) {
    changed_.wait_for(lock, interval_, [&] { return stops_; });
    num_late = Clock::now() - answered_at_ > timeout_ ? num_late + 1 : 0;
    if (num_late > 1 && !failure_ && !has_stopped_talking_) {
      failure_ = JobFailure{
          .text = silence_of(launch_.has_server ? fmt::format("the store at {}", describe_store(launch_)) : "rank 0")};
      failed_at_ = Clock::now();
      changed_.notify_all();
    }
    ask_backend(lock);
    end_process_if_late(lock);
  }
}

void Watch::ask_backend(Lock& lock) {
  if (!backend_problem_ || failure_ || stops_) return;
  lock.unlock();
  if (const std::string problem = backend_problem_(); !problem.empty()) find_cause("communicating", problem);
  lock.lock();
}

void Watch::end_process_if_late(Lock& lock) {
  if (!ends_process_ || !failure_ || stops_) return;
  // A signal lets rank 0 finish a checkpoint, which others wait for.
  const milliseconds patience = pending_signal() != 0 ? timeout_ : interval_ * (kPatienceIntervals + 2);
  if (Clock::now() - failed_at_ < patience) return;
  const JobFailure failure = *failure_;
  lock.unlock();
  log_error("{}", failure.text);
  std::fflush(nullptr);
  std::_Exit(failure.exit_code);
}

void Watch::ask(std::function<std::string()> backend_problem) {
  const Lock lock(mutex_);
  backend_problem_ = std::move(backend_problem);
}

void Watch::learn(const JobFailure& failure) {
  const Lock lock(mutex_);
  if (failure_) return;
  failure_ = failure;
  failed_at_ = Clock::now();
  changed_.notify_all();
}

std::optional<JobFailure> Watch::failure() const {
  const Lock lock(mutex_);
  return failure_;
}

JobFailure Watch::report(const JobFailure& failure) {
  {
    Lock lock(mutex_);
    if (!outgoing_) outgoing_ = failure;
    changed_.notify_all();
    changed_.wait_for(lock, interval_ * kPatienceIntervals, [&] { return failure_.has_value(); });
  }
  learn(failure);
  return *this->failure();
}

JobFailure Watch::find_cause(const std::string& operation, const std::string& problem) {
  looks_at_all_ = true;
  Lock lock(mutex_);
  if (changed_.wait_for(lock, interval_ * kPatienceIntervals, [&] { return failure_.has_value(); })) return *failure_;
  const std::vector<int> silent = silent_for(interval_ * kSilentIntervals);
  std::vector<int> behind;
  for (int rank = 0; rank < launch_.size; ++rank)
    if (rank != launch_.rank && peers_[static_cast<std::size_t>(rank)].num_operations < num_operations_)
      behind.push_back(rank);
  lock.unlock();
  if (!silent.empty())
    return report({.text = fmt::format("{} ended without a message: probably killed, by the system for lack of memory "
                                       "or by a user",
                                       ranks_text(silent))});
  if (!behind.empty())
    return report(
        {.text = fmt::format("{} did not come to the same point within {:g} s (dist.timeout): it is too slow, "
                             "or waits for something else",
                             ranks_text(behind), static_cast<double>(timeout_.count()) / 1000)});
  return report({.text = fmt::format("rank {}: {} with the other ranks failed: {}", launch_.rank, operation, problem)});
}

void Watch::wait_until_known() {
  Lock lock(mutex_);
  changed_.wait_for(lock, interval_ * kPatienceIntervals,
                    [&] { return num_that_know_ >= launch_.size || has_stopped_talking_; });
}

void Watch::stop(bool leaves) {
  Lock lock(mutex_);
  leaves_ = leaves_ || leaves;
  stops_ = true;
  changed_.notify_all();
  changed_.wait_for(lock, leaves ? timeout_ + interval_ : interval_, [&] { return has_stopped_talking_; });
  lock.unlock();
  if (guard_.joinable()) guard_.join();
}

}  // namespace adept::dist
