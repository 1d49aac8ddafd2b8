#include "adept/io/atomic_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <optional>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "adept/core/error.h"

namespace adept::io {
namespace fs = std::filesystem;
namespace {

// Names have at most 255 bytes; this leaves room for the dot and the suffix.
constexpr std::size_t kMaxStem = 200;
constexpr int kMaxTries = 100;

fs::path temporary_name(const fs::path& final_path) {
  static thread_local std::random_device device;
  const std::string stem = final_path.filename().string().substr(0, kMaxStem);
  return parent_of(final_path) / fmt::format(".{}.tmp-{}-{:08x}", stem, ::getpid(), device());
}

// The process in a name that temporary_name made; nothing for other names.
std::optional<pid_t> process_of_temporary(const std::string& name) {
  static const std::regex pattern(R"(\..+\.tmp-([0-9]{1,9})-[0-9a-f]{8})");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return std::nullopt;
  return static_cast<pid_t>(std::stol(match[1]));
}

// "out/" names the same directory as "out", but has no file name that a temporary could be made from.
fs::path without_trailing_slash(fs::path path) {
  while (!path.has_filename() && path.has_relative_path()) path = path.parent_path();
  const fs::path name = path.filename();
  if (name.empty() || name == "." || name == "..")
    throw DataError("\"{}\": cannot be written as a whole; expected a path that ends in a new name.", path.string());
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
  return DataError("{}: exists already; remove it, or choose another output.", path.string());
}

}  // namespace

void remove_temporaries(const fs::path& directory) {
  std::error_code error;
  std::vector<fs::path> left;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    const auto process = process_of_temporary(it->path().filename().string());
    if (process && ::kill(*process, 0) != 0 && errno == ESRCH) left.push_back(it->path());
  }
  for (const fs::path& path : left) fs::remove_all(path, error);  // what cannot be removed is in nobody's way
}

AtomicFile::AtomicFile(fs::path final_path) : final_path_(std::move(final_path)) {
  std::error_code ignored;
  if (!final_path_.has_filename() || fs::is_directory(final_path_, ignored))
    throw DataError("{}: is a folder; expected the path of a file to write.", final_path_.string());
  for (int i = 0; i < kMaxTries && !fd_.is_open(); ++i) {
    temporary_ = temporary_name(final_path_);
    fd_ = UniqueFd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd_.is_open() && errno != EEXIST) throw system_error(final_path_, "create", errno);
  }
  if (!fd_.is_open()) throw system_error(final_path_, "create", EEXIST);
}

AtomicFile::~AtomicFile() {
  fd_.reset();
  if (!committed_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  ADEPT_CHECK(fd_.is_open(), "{} was committed already", final_path_.string());
  write_all(fd_.get(), bytes, final_path_);
}

void AtomicFile::commit() {
  ADEPT_CHECK(fd_.is_open(), "{} was committed already", final_path_.string());
  sync_file(fd_.get(), final_path_);
  fd_.close(final_path_);
  if (::rename(temporary_.c_str(), final_path_.c_str()) != 0) throw system_error(final_path_, "rename to", errno);
  committed_ = true;
  sync_directory(parent_of(final_path_));
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
    : final_path_(without_trailing_slash(std::move(final_path))), on_existing_(on_existing) {
  std::error_code ignored;
  const fs::file_status status = fs::symlink_status(final_path_, ignored);
  const bool is_empty = fs::is_directory(status) && fs::is_empty(final_path_, ignored);
  if (fs::exists(status) && !fs::is_directory(status))
    throw DataError("{}: is not a folder; remove it, or choose another output.", final_path_.string());
  if (fs::exists(status) && !is_empty && on_existing_ == OnExisting::kFail) throw exists_error(final_path_);
  make_directories(parent_of(final_path_));
  for (int i = 0; i < kMaxTries; ++i) {
    temporary_ = temporary_name(final_path_);
    if (::mkdir(temporary_.c_str(), 0777) == 0) return;
    if (errno != EEXIST) throw system_error(final_path_, "create", errno);
  }
  throw system_error(final_path_, "create", EEXIST);
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void AtomicDirectory::commit() {
  ADEPT_CHECK(!committed_, "{} was committed already", final_path_.string());
  sync_tree(temporary_);
  // rename(2) takes the place of nothing or of an empty directory, and of nothing else: no race with other writers.
  if (::rename(temporary_.c_str(), final_path_.c_str()) == 0) {
    committed_ = true;
  } else if (errno == ENOTEMPTY || errno == EEXIST) {
    if (on_existing_ == OnExisting::kFail) throw exists_error(final_path_);
    replace();
  } else {
    throw system_error(final_path_, "rename to", errno);
  }
  sync_directory(parent_of(final_path_));
}

void AtomicDirectory::replace() {
  fs::path old = temporary_;
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, final_path_.c_str(), RENAME_EXCHANGE) != 0) {
    // File systems without an exchange: two renames, with a moment in which the final path does not exist.
    if (errno != EINVAL && errno != ENOSYS) throw system_error(final_path_, "replace", errno);
    old = temporary_name(final_path_);
    if (::rename(final_path_.c_str(), old.c_str()) != 0) throw system_error(final_path_, "move aside", errno);
    if (::rename(temporary_.c_str(), final_path_.c_str()) != 0) {
      const int error_number = errno;
      if (::rename(old.c_str(), final_path_.c_str()) != 0)
        throw DataError("{}: cannot be replaced, and its old contents are now in {}; move them back.",
                        final_path_.string(), old.string());
      throw system_error(final_path_, "rename to", error_number);
    }
  }
  committed_ = true;
  sync_directory(parent_of(final_path_));
  std::error_code error;
  fs::remove_all(old, error);
  if (error)
    throw DataError("{}: was replaced, but its old contents in {} cannot be removed: {}.", final_path_.string(),
                    old.string(), error.message());
}

}  // namespace adept::io
