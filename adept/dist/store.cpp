#include "adept/dist/store.h"

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>
#include <fmt/format.h>

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <sstream>
#include <string_view>
#include <system_error>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/host_name.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"

namespace adept::dist {

std::string first_line(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
  std::string line = text.substr(0, text.find('\n'));
  constexpr std::string_view kReason = "Last error:\n";
  if (const auto reason = text.find(kReason); reason != std::string::npos) {
    const auto begin = reason + kReason.size();
    const std::string told = text.substr(begin, text.find('\n', begin) - begin);
    if (!told.empty()) line += ": " + told;
  }
  return line;
}

void quiet_c10d() {
  static std::once_flag once;
  std::call_once(once, [] {
    ::setenv("TORCH_CPP_LOG_LEVEL", "FATAL", /*overwrite=*/0);
    c10::initLogging();
  });
}

std::string describe_store(const Launch& launch) {
  return fmt::format("{}:{} ({})", launch.host, launch.port,
                     launch.has_server ? "the program that started the job" : "rank 0");
}

c10::intrusive_ptr<c10d::Store> of_attempt(c10::intrusive_ptr<c10d::Store> store, const std::string& attempt) {
  return c10::make_intrusive<c10d::PrefixStore>(fmt::format("adept/{}", attempt), std::move(store));
}

std::string name_of(const Launch& launch) {
  return launch.rank == LaunchError::kUnknownRank ? fmt::format("a process on {}", host_name())
                                                  : fmt::format("rank {}", launch.rank);
}

namespace {

constexpr const char* kSize = "size";

std::string join_key(int rank) { return fmt::format("joins/{}", rank); }

ClaimedSize to_claimed_size(const std::string& text) {
  ClaimedSize claimed;
  std::istringstream(text) >> claimed.size >> claimed.rank;
  return claimed;
}

}  // namespace

bool is_claimed(c10d::Store& store, int rank) { return store.check({join_key(rank)}); }

bool claim_rank(c10d::Store& store, int rank) { return store.add(join_key(rank), 1) == 1; }

ClaimedSize claim_size(c10d::Store& store, int size, int rank) {
  return to_claimed_size(store.compareSet(kSize, "", fmt::format("{} {}", size, rank)));
}

int claimed_size(c10d::Store& store) {
  return store.check({kSize}) ? to_claimed_size(store.get_to_str(kSize)).size : LaunchError::kUnknownSize;
}

bool lacks(c10d::Store& store, const Launch& launch) {
  const int size = claimed_size(store);
  if (size == LaunchError::kUnknownSize && launch.rank == LaunchError::kUnknownRank) return true;
  if (launch.rank >= 0 && (size == LaunchError::kUnknownSize || launch.rank < size))
    return claim_rank(store, launch.rank);
  for (int rank = 0; rank < size; ++rank)
    if (!is_claimed(store, rank)) return true;
  return false;
}

namespace {

using StorePointer = c10::intrusive_ptr<c10d::Store>;

/// Why there is no store, by a connection like that of the store.
std::string reason_for_no_store(const Launch& launch) {
  addrinfo wanted = {}, *found = nullptr;
  wanted.ai_socktype = SOCK_STREAM;
  const int error = ::getaddrinfo(launch.host.c_str(), std::to_string(launch.port).c_str(), &wanted, &found);
  if (error != 0) return fmt::format("the name {} is not known ({})", launch.host, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  int reason = 0;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const int connection = ::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    constexpr timeval kPatience = {.tv_sec = 2, .tv_usec = 0};
    ::setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);
    const bool is_there = ::connect(connection, a->ai_addr, a->ai_addrlen) == 0;
    if (!is_there) reason = errno;
    ::close(connection);
    if (is_there) return "another program answers there, which is no rank 0 of adept or torchrun";
  }
  if (reason == ECONNREFUSED) return "nothing listens there";
  return reason == EINPROGRESS ? "it does not answer" : std::generic_category().message(reason);
}

/// TCPStore without end waits for the answer of a program that is no store: on a thread of its own, which is left to
/// itself then.
StorePointer connect(const Launch& launch, const c10d::TCPStoreOptions& options) {
  const auto until_told = std::min<std::chrono::milliseconds>(options.timeout / 4, std::chrono::seconds(15));
  const auto opened = std::make_shared<std::promise<StorePointer>>();
  std::future<StorePointer> store = opened->get_future();
  std::thread([opened, host = launch.host, options] {
    try {
      opened->set_value(c10::make_intrusive<c10d::TCPStore>(host, options));
    } catch (...) {
      opened->set_exception(std::current_exception());
    }
  }).detach();
  const auto start = std::chrono::steady_clock::now(), deadline = start + options.timeout + std::chrono::seconds(1);
  bool has_told = false;
  while (store.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
    throw_if_interrupted();
    const auto now = std::chrono::steady_clock::now();
    if (now > deadline) C10_THROW_ERROR(DistError, "no answer in time");
    if (now - start < until_told || std::exchange(has_told, true)) continue;
    log_warning("{} waits for {} up to {:g} s: {}", name_of(launch), describe_store(launch),
                options.timeout.count() / 1000.0, reason_for_no_store(launch));
  }
  return store.get();
}

}  // namespace

c10::intrusive_ptr<c10d::Store> open_store(const Launch& launch, std::chrono::milliseconds timeout, bool may_serve) {
  quiet_c10d();
  c10d::TCPStoreOptions options;
  options.port = launch.port;
  options.isServer = may_serve && launch.serves();
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return of_attempt(connect(launch, options), launch.attempt);
  } catch (const c10::DistError& error) {
    if (options.isServer && first_line(error).find("EADDRINUSE") != std::string::npos)
      throw DataError(
          "rank 0 cannot listen on port {} (MASTER_PORT): another program uses it, perhaps another job, or one that "
          "did not end. Set MASTER_PORT to a free port, or end that program.",
          launch.port);
    throw DataError(
        "{} cannot reach {} within {} s: {}. Check that rank 0 runs, that MASTER_ADDR and MASTER_PORT are those "
        "of its machine on every machine, and that no firewall is between them.",
        name_of(launch), describe_store(launch), timeout.count() / 1000.0, reason_for_no_store(launch));
  }
}

}  // namespace adept::dist
