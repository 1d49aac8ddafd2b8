#include "adept/io/atomic_file.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "adept/core/error.h"
#include "adept/core/signals.h"

namespace adept::io {
namespace fs = std::filesystem;
namespace {

constexpr int kReaderInterval = 50;  // milliseconds between checks for the reader of a pipe

// Keeps owner and mode, as far as the user and the file system allow.
void keep_mode(int fd, const struct stat& old) {
  [[maybe_unused]] const int owned = ::fchown(fd, old.st_uid, old.st_gid);
  [[maybe_unused]] const int moded = ::fchmod(fd, old.st_mode & 07777);
}

UniqueFd open_for_writing(const fs::path& path, const struct stat& status) {
  if (S_ISSOCK(status.st_mode))
    throw DataError("{}: is a socket; expected a file, a device or a named pipe.", path.string());
  for (;;) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (fd.is_open()) return fd;
    if (errno != ENXIO || !S_ISFIFO(status.st_mode)) throw system_error(path, "open for writing", errno);
    throw_if_interrupted();
    pollfd signal = {signal_descriptor(), POLLIN, 0};
    ::poll(&signal, 1, kReaderInterval);
  }
}

// "out/" names the same directory as "out", but has no file name that a temporary could be made from.
fs::path without_trailing_slash(fs::path path) {
  while (!path.has_filename() && path.has_relative_path()) path = path.parent_path();
  const fs::path name = path.filename();
  if (name.empty() || name == "." || name == "..")
    throw DataError("\"{}\": cannot be an output path; expected a path that ends in the name of a file or folder.",
                    path.string());
  return path;
}

void make_directories(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return;
  const fs::path parent = parent_of(path);
  if (parent != path) make_directories(parent);
  if (::mkdir(path.c_str(), 0777) == 0)
    sync_directory(parent);
  else if (errno != EEXIST || !fs::is_directory(path, ignored))
    throw system_error(path, "create the folder", errno);
}

void sync_tree(const fs::path& directory) {
  std::error_code error;
  fs::directory_iterator entries(directory, error);
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    const fs::file_status status = entries->symlink_status(error);
    if (error) break;
    if (fs::is_directory(status)) sync_tree(entries->path());
    if (fs::is_regular_file(status)) sync_file(open_for_reading(entries->path()).get(), entries->path());
  }
  if (error) throw system_error(directory, "list the folder", error.value());
  sync_directory(directory);
}

DataError exists_error(const fs::path& path) {
  return DataError("{}: already exists; remove it, or choose another output.", path.string());
}

}  // namespace

AtomicFile::AtomicFile(fs::path final_path, SpecialFile special_file) : final_path_(std::move(final_path)) {
  LinkTarget target = follow_links(final_path_);
  const auto require_write_through = [&] {
    if (special_file == SpecialFile::kRefuse)
      throw DataError(
          "{}: is a pipe, a device or another special file; expected a regular file, or a path that does not exist. "
          "Remove it.",
          final_path_.string());
  };
  if (target.descriptor >= 0) {
    require_write_through();
    std::fflush(stdout);  // which may be the same
    stream_ = UniqueFd(::fcntl(target.descriptor, F_DUPFD_CLOEXEC, 0));
    if (!stream_.is_open()) throw system_error(final_path_, "open for writing", errno);
    return;
  }
  target_ = std::move(target.path);
  struct stat status = {};
  const bool exists = ::stat(target_.c_str(), &status) == 0;
  if (!target_.has_filename() || (exists && S_ISDIR(status.st_mode)))
    throw DataError("{}: is a folder; expected the path of a file to write.", final_path_.string());
  if (exists && !S_ISREG(status.st_mode)) {
    require_write_through();
    stream_ = open_for_writing(target_, status);
    return;
  }
  if (exists) old_ = status;
  temporary_.emplace(target_, Temporary::Kind::kFile, exists ? 0600 : 0666, final_path_);
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  ADEPT_CHECK(!committed_, "{} was committed already", final_path_.string());
  if (temporary_) return write_all(temporary_->fd(), bytes, final_path_);
  const int error = write_stream(stream_.get(), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (error == EINTR) throw_if_interrupted();
  if (error != 0) throw system_error(final_path_, "write", error);
}

void AtomicFile::commit() {
  ADEPT_CHECK(!committed_, "{} was committed already", final_path_.string());
  committed_ = true;
  if (stream_.is_open()) return stream_.close(final_path_);
  const int fd = temporary_->fd();
  if (old_) keep_mode(fd, *old_);
  sync_file(fd, final_path_);
  if (::rename(temporary_->path().c_str(), target_.c_str()) != 0) throw system_error(final_path_, "rename to", errno);
  temporary_->set_renamed();
  temporary_.reset();
  sync_directory(parent_of(target_));
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

AtomicDirectory::AtomicDirectory(fs::path final_path, OnExisting on_existing)
    : final_path_(without_trailing_slash(std::move(final_path))),
      target_(without_trailing_slash(follow_links(final_path_).path)),
      on_existing_(on_existing) {
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(target_, ignored);
  const bool is_empty = fs::is_directory(status) && fs::is_empty(target_, ignored);
  if (fs::exists(status) && !fs::is_directory(status))
    throw DataError(
        "{}: is a file; expected a folder, or a path that does not exist. Remove it, or choose another output.",
        final_path_.string());
  if (fs::exists(status) && !is_empty && on_existing_ == OnExisting::kFail) throw exists_error(final_path_);
  make_directories(parent_of(target_));
  temporary_.emplace(target_, Temporary::Kind::kDirectory, 0777, final_path_);
}

void AtomicDirectory::commit() {
  ADEPT_CHECK(!committed_, "{} was committed already", final_path_.string());
  struct stat old = {};
  if (::stat(target_.c_str(), &old) == 0 && S_ISDIR(old.st_mode)) keep_mode(temporary_->fd(), old);
  sync_tree(temporary_->path());
  // rename(2) only replaces an absent path or an empty directory, so there is no race with other writers.
  if (::rename(temporary_->path().c_str(), target_.c_str()) == 0) {
    committed_ = true;
    temporary_->set_renamed();
  } else if (errno == ENOTEMPTY || errno == EEXIST) {
    if (on_existing_ == OnExisting::kFail) throw exists_error(final_path_);
    replace();
  } else {
    throw system_error(final_path_, "rename to", errno);
  }
  sync_directory(parent_of(target_));
}

void AtomicDirectory::replace() {
  fs::path old = temporary_->path();
  if (::renameat2(AT_FDCWD, old.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) != 0) {
    // For file systems without an atomic exchange: two renames, between which the final path does not exist.
    if (errno != EINVAL && errno != ENOSYS) throw system_error(final_path_, "replace", errno);
    old = name_for_old(target_);
    if (::rename(target_.c_str(), old.c_str()) != 0) throw system_error(final_path_, "move aside", errno);
    if (::rename(temporary_->path().c_str(), target_.c_str()) != 0) {
      const int error_number = errno;
      if (::rename(old.c_str(), target_.c_str()) != 0)
        throw DataError("{}: cannot be replaced, and its old contents are now in {}; move them back.",
                        final_path_.string(), old.string());
      throw system_error(final_path_, "rename to", error_number);
    }
  }
  committed_ = true;
  temporary_->set_renamed();
  sync_directory(parent_of(target_));
  std::error_code error;
  fs::remove_all(old, error);
  if (error)
    throw DataError("{}: was replaced, but its old contents in {} cannot be removed: {}.", final_path_.string(),
                    old.string(), error.message());
}

}  // namespace adept::io
