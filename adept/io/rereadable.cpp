#include "adept/io/rereadable.h"

#include <fcntl.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "adept/core/signals.h"
#include "adept/io/posix.h"

namespace adept::io {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

UniqueFd make_nameless_file(const fs::path& folder) {
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.is_open()) return fd;
  std::string name = (folder / "adept-XXXXXX").string();  // file systems without O_TMPFILE
  fd = UniqueFd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.is_open()) throw system_error(folder, "create a temporary file in", errno);
  fs::remove(name);
  return fd;
}

UniqueFd copy_of(const fs::path& stream) {
  const UniqueFd from = open_stream(stream);
  const fs::path folder = fs::temp_directory_path();
  UniqueFd to = make_nameless_file(folder);
  std::vector<char> block(kBlockBytes);
  while (const std::size_t count = read_some(from.get(), block, stream)) {
    throw_if_interrupted();
    write_all(to.get(), std::as_bytes(std::span(block).first(count)), folder);
  }
  return to;
}

}  // namespace

bool is_stream(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  return fs::exists(status) && !fs::is_directory(status) && follow_links(path).descriptor >= 0;
}

UniqueFd open_rereadable(const fs::path& path) {
  if (!is_stream(path)) return open_stream(path);
  static std::mutex mutex;
  static std::map<int, UniqueFd> copies;  // by descriptor, which has several names
  const std::lock_guard lock(mutex);
  const int descriptor = follow_links(path).descriptor;
  auto copy = copies.find(descriptor);
  if (copy == copies.end()) copy = copies.emplace(descriptor, copy_of(path)).first;
  return open_for_reading(fmt::format("/proc/self/fd/{}", copy->second.get()));
}

}  // namespace adept::io
