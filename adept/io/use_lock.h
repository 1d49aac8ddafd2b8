// Locks of files that several processes use and one may remove (flock). The system releases them when a process ends.
#pragma once

#include <filesystem>
#include <optional>

#include "adept/core/file.h"

namespace adept::io {

/// Marks a file as used while the result is open, together with other processes. Waits for one that is removing it.
/// Not open if the file cannot be opened, or its file system has no locks.
UniqueFd lock_for_use(const std::filesystem::path& file);

/// Locks a file that no process uses, before it is removed; nothing if one uses it, or if that cannot be known. Not
/// open if there is no such file.
std::optional<UniqueFd> lock_if_unused(const std::filesystem::path& file);

}  // namespace adept::io
