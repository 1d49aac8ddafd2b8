#define USE_C10D_GLOO

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "adept/dist/backends.h"

namespace adept::dist {
namespace {

using c10d::ProcessGroupGloo;

/// The address of this machine in the network that leads to `host`; empty if unknown or only this machine sees it.
std::string address_towards(const std::string& host, std::uint16_t port) {
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_DGRAM;  // connecting sends nothing
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return "";
  std::string address;
  for (const addrinfo* info = found; info != nullptr && address.empty(); info = info->ai_next) {
    const int fd = ::socket(info->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_storage own = {};
    socklen_t length = sizeof own;
    char text[NI_MAXHOST] = "";
    if (fd >= 0 && ::connect(fd, info->ai_addr, info->ai_addrlen) == 0 &&
        ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
        ::getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
      address = text;
    if (fd >= 0) ::close(fd);
  }
  ::freeaddrinfo(found);
  return address.starts_with("127.") || address == "::1" ? "" : address;
}

std::shared_ptr<gloo::transport::Device> choose_device(const Launch& launch) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"); interface != nullptr && *interface != '\0')
    return ProcessGroupGloo::createDeviceForInterface(
        std::string(interface).substr(0, std::string(interface).find(',')));
  if (launch.is_one_machine()) return ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  const std::string address = address_towards(launch.host, launch.port);
  return address.empty() ? ProcessGroupGloo::createDefaultDevice() : ProcessGroupGloo::createDeviceForHostname(address);
}

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_gloo(const Launch& launch, const c10::intrusive_ptr<c10d::Store>& store,
                                            std::chrono::milliseconds timeout) {
  auto options = ProcessGroupGloo::Options::create(timeout);
  options->devices = {choose_device(launch)};
  return c10::make_intrusive<ProcessGroupGloo>(store, launch.rank, launch.size, options);
}

}  // namespace adept::dist
