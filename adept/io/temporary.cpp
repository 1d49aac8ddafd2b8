#include "adept/io/temporary.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/io/posix.h"

namespace adept::io {
namespace {

namespace fs = std::filesystem;

// Names have at most 255 bytes; this leaves room for the dot and the suffix.
constexpr std::size_t kMaxStem = 200;
constexpr std::size_t kRandomDigits = 16;
constexpr int kMaxTries = 100;
constexpr std::string_view kNew = ".tmp-", kOld = ".old-";

std::string stem_of(const fs::path& target) { return target.filename().string().substr(0, kMaxStem); }

fs::path temporary_name(const fs::path& target, std::string_view kind) {
  static thread_local std::random_device device;
  return parent_of(target) / fmt::format(".{}{}{:08x}{:08x}", stem_of(target), kind, device(), device());
}

// The target from which temporary_name made a name.
struct TemporaryName {
  std::string stem;
  bool is_old;
};

std::optional<TemporaryName> parse_name(const std::string& name) {
  constexpr std::size_t kSuffix = kNew.size() + kRandomDigits;
  if (name.size() < kSuffix + 2 || name.front() != '.') return std::nullopt;
  const std::string_view kind = std::string_view(name).substr(name.size() - kSuffix, kNew.size());
  const bool is_random = name.find_first_not_of("0123456789abcdef", name.size() - kRandomDigits) == std::string::npos;
  if (!is_random || (kind != kNew && kind != kOld)) return std::nullopt;
  return TemporaryName{name.substr(1, name.size() - kSuffix - 1), kind == kOld};
}

bool is_same_file(int fd, const fs::path& path) {
  struct stat opened = {}, named = {};
  return ::fstat(fd, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

void remove_if_abandoned(const fs::path& path) {
  UniqueFd fd;
  for (const int access : {O_WRONLY, O_RDONLY})  // network file systems lock only writable files
    if (!fd.is_open()) fd = UniqueFd(::open(path.c_str(), access | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.is_open()) return;
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      log_warning(
          "{}: belongs to a process that was killed or is still running; this file system does not support locks ({}). "
          "Remove it if no other adept process writes there.",
          path.string(), std::generic_category().message(errno));
    return;
  }
  if (is_same_file(fd.get(), path)) remove_or_warn(path);
}

/// Temporaries with this stem, or all.
void remove_temporaries(const fs::path& directory, const std::optional<std::string>& stem) {
  std::error_code error;
  std::vector<fs::path> found;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const auto name = parse_name(it->path().filename().string());
    if (!name || (stem && name->stem != *stem)) continue;
    if (!name->is_old || is_present(directory / name->stem)) found.push_back(it->path());
  }
  for (const fs::path& path : found) remove_if_abandoned(path);
}

/// Temporaries that this process is writing. The destructor also runs at exit(), which does not unwind the stack.
class LiveTemporaries {
 public:
  static LiveTemporaries& get() {
    static LiveTemporaries live;
    return live;
  }
  ~LiveTemporaries() {
    std::error_code ignored;
    for (const fs::path& path : paths_) fs::remove_all(path, ignored);
  }
  void add(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.insert(path);
  }
  void remove(const fs::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.erase(path);
  }

 private:
  std::mutex mutex_;
  std::set<fs::path> paths_;
};

}  // namespace

void remove_temporaries(const fs::path& directory) { remove_temporaries(directory, std::nullopt); }

fs::path name_for_old(const fs::path& target) { return temporary_name(target, kOld); }

Temporary::Temporary(const fs::path& target, Kind kind, mode_t mode, const fs::path& shown) {
  remove_temporaries(parent_of(target), stem_of(target));
  for (int i = 0; i < kMaxTries; ++i) {
    path_ = temporary_name(target, kNew);
    if (!try_to_make(kind, mode, shown)) continue;
    LiveTemporaries::get().add(path_);
    return;
  }
  throw system_error(shown, "create", EEXIST);
}

// False if another process removed it as abandoned before it was locked.
bool Temporary::try_to_make(Kind kind, mode_t mode, const fs::path& shown) {
  if (kind == Kind::kFile) {
    fd_ = UniqueFd(::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (!fd_.is_open() && errno == EEXIST) return false;
    if (!fd_.is_open()) throw system_error(shown, "create", errno);
  } else {
    if (::mkdir(path_.c_str(), mode) != 0) {
      if (errno == EEXIST) return false;
      throw system_error(shown, "create", errno);
    }
    fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd_.is_open() && errno == ENOENT) return false;
    if (!fd_.is_open()) {
      const int error_number = errno;
      ::rmdir(path_.c_str());
      throw system_error(shown, "create", error_number);
    }
  }
  if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
  return is_same_file(fd_.get(), path_);
}

Temporary::~Temporary() {
  if (path_.empty()) return;
  remove_or_warn(path_);
  LiveTemporaries::get().remove(path_);
}

void Temporary::set_renamed() {
  LiveTemporaries::get().remove(path_);
  path_.clear();
}

}  // namespace adept::io
