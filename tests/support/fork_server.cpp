// Starts commands of `adept` by fork. Most of a short command's time passes while libtorch registers its operators;
// here that happens once.
//
//   fork_server FD
//
// FD is a Unix socket of type SOCK_SEQPACKET. A request is texts that each end with a NUL: the directory, the number of
// arguments, the arguments, NAME=VALUE of the environment; with two descriptors, the command's standard output and
// error. The answer is the status of waitpid, as text.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "cli/program.h"

namespace {

constexpr std::size_t kMaxRequest = std::size_t{1} << 20;

/// The texts of a request, with its descriptors in `streams`; none at the end.
std::vector<std::string> receive(int socket, std::array<int, 2>& streams) {
  std::string request(kMaxRequest, '\0');
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(streams))> control{};
  iovec data = {.iov_base = request.data(), .iov_len = request.size()};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (size <= 0) return {};
  std::memcpy(streams.data(), CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(streams));
  std::istringstream stream(request.substr(0, static_cast<std::size_t>(size)));
  std::vector<std::string> texts;
  for (std::string text; std::getline(stream, text, '\0');) texts.push_back(text);
  return texts;
}

[[noreturn]] void run(std::vector<std::string> request, const std::array<int, 2>& streams, int socket) {
  ::dup2(streams[0], STDOUT_FILENO);
  ::dup2(streams[1], STDERR_FILENO);
  for (const int descriptor : {streams[0], streams[1], socket}) ::close(descriptor);
  if (::chdir(request.at(0).c_str()) != 0) std::_Exit(127);
  const auto begin = request.begin() + 2, end = begin + std::stoi(request.at(1));
  ::clearenv();
  for (auto variable = end; variable != request.end(); ++variable) ::putenv(variable->data());
  std::string name = "adept";
  std::vector<char*> argv = {name.data()};
  for (auto argument = begin; argument != end; ++argument) argv.push_back(argument->data());
  argv.push_back(nullptr);
  adept::cli::run_program(static_cast<int>(argv.size()) - 1, argv.data());
}

}  // namespace

int main(int, char** argv) {
  const int socket = std::atoi(argv[1]);
  ::fcntl(socket, F_SETFD, FD_CLOEXEC);
  for (std::array<int, 2> streams{};;) {
    const std::vector<std::string> request = receive(socket, streams);
    if (request.empty()) return 0;
    const pid_t child = ::fork();
    if (child == 0) run(request, streams, socket);
    for (const int stream : streams) ::close(stream);
    int status = 0;
    ::waitpid(child, &status, 0);
    const std::string answer = std::to_string(status);
    ::send(socket, answer.data(), answer.size(), 0);
  }
}
