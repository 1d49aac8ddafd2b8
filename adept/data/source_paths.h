// Globs, and what folders contain. Internal to adept::data.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace adept::data {

inline constexpr std::string_view kRunFolder = "folder of an adept run";
inline constexpr std::string_view kStoreFolder = "token store";  ///< also one that is not complete

/// Names the kind of a folder that adept wrote or that contains a model, which contain no training text: kRunFolder,
/// "model folder", kStoreFolder; else empty.
std::string_view written_folder(const std::filesystem::path& folder);
/// Whether the name starts with a dot.
bool is_hidden(const std::filesystem::path& path);
/// Everything in a folder, sorted by name.
std::vector<std::filesystem::path> sorted_entries(const std::filesystem::path& folder, std::error_code& error);

/// Whether a path contains one of * ? [.
bool is_glob(std::string_view path);
/// The paths that a glob matches, sorted by name: `*`, `?` and `[...]` within a name, `**` as a whole name for any
/// number of folders (links to folders are not entered). As in a shell, a leading dot must be spelled out. Folders that
/// cannot be read match nothing.
std::vector<std::filesystem::path> expand_glob(const std::string& pattern);

/// Whether a pattern matches a file, which need not exist.
class GlobPattern {
 public:
  explicit GlobPattern(const std::string& pattern);

  /// `file` is canonical. Globs do not enter the folder `left_out`; explicit names do.
  bool matches(const std::filesystem::path& file, const std::filesystem::path& left_out = {}) const;

 private:
  bool matches(const std::filesystem::path& folder, std::size_t at, const std::vector<std::filesystem::path>& rest,
               const std::filesystem::path& left_out) const;

  std::filesystem::path base_;  // the folders before the first name with a glob
  std::vector<std::string> names_;
};

}  // namespace adept::data
