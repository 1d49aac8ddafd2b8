// Which files a source of text consists of. Internal to adept::data.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace adept::data {

enum class FileKind { kTxt, kJsonl };

/// The kind of a file by its name (in any case, with or without .gz); nothing for other kinds.
std::optional<FileKind> file_kind(const std::filesystem::path& path);

/// For messages: the supported kinds of files.
inline constexpr std::string_view kAcceptedFiles = ".txt, .jsonl, .txt.gz and .jsonl.gz";

/// Whether a path contains one of * ? [.
bool is_glob(std::string_view path);
/// The paths that a glob matches, sorted by name: `*`, `?` and `[...]` within a name, `**` as a whole name for any
/// number of folders (links to folders are not entered). As in a shell, a leading dot must be spelled out. Folders that
/// cannot be read match nothing.
std::vector<std::filesystem::path> expand_glob(const std::string& pattern);

}  // namespace adept::data
