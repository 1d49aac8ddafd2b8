#include "adept/io/file_stamp.h"

#include <sys/stat.h>

#include "adept/core/error.h"
#include "adept/io/rereadable.h"

namespace adept::io {

FileStamp stamp_of(const std::filesystem::path& path) {
  struct stat status = {};
  if (is_stream(path) || ::stat(path.c_str(), &status) != 0) return {};
  return {.inode = status.st_ino,
          .size = status.st_size,
          .seconds = status.st_mtim.tv_sec,
          .nanoseconds = status.st_mtim.tv_nsec};
}

void require_unchanged(const std::filesystem::path& path, const FileStamp& stamp) {
  if (stamp_of(path) != stamp)
    throw DataError(
        "{}: has changed while it was read; expected a file that no process writes to. Run again once it is complete.",
        path.string());
}

}  // namespace adept::io
