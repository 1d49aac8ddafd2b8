#include "adept/run/run_directory.h"

#include "adept/core/error.h"
#include "adept/core/file.h"

namespace adept::run {

namespace fs = std::filesystem;

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  for (fs::path p = fs::absolute(path_ / "").parent_path(); !is_present(p) && p.has_relative_path();
       p = p.parent_path())
    made_.push_back(p);
  try {
    fs::create_directories(path_, error);
    if (error)
      throw DataError("output_dir: {} cannot be created: {}. Choose another directory.", path_.string(),
                      error.message());
    lock_.emplace(path_);
  } catch (...) {
    remove_made();
    throw;
  }
}

RunDirectory::~RunDirectory() { remove_made(); }

// Removes only empty folders; the lock is the last file in an otherwise empty directory.
void RunDirectory::remove_made() const noexcept {
  if (made_.empty()) return;
  std::error_code ignored;
  for (const char* folder : {"data", files::kStages}) fs::remove(path_ / folder, ignored);
  const fs::directory_iterator first(path_, ignored), end;
  const bool has_only_lock =
      first != end && first->path().filename() == io::DirectoryLock::kFileName && std::distance(first, end) == 1;
  if (has_only_lock) fs::remove(path_ / io::DirectoryLock::kFileName, ignored);
  for (const fs::path& folder : made_) fs::remove(folder, ignored);
}

bool is_in(const fs::path& path, const fs::path& folder) {
  const fs::path relative = fs::weakly_canonical(path).lexically_relative(fs::weakly_canonical(folder));
  return !relative.empty() && *relative.begin() != "..";
}

}  // namespace adept::run
