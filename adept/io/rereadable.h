// Rereads text from sources that can be read only once: a pipe, /dev/stdin, a process substitution.
#pragma once

#include <filesystem>

#include "adept/core/file.h"

namespace adept::io {

/// Whether `path` is one of this process's descriptors (/dev/stdin, /dev/fd/3), of any kind: a pipe, a terminal, a
/// file.
bool is_stream(const std::filesystem::path& path);

/// Opens for reading from the start, any number of times (a named pipe only once). The first call reads a stream to its
/// end, into an unnamed file in the folder for temporary files. Throws DataError; InterruptedError if a signal ends the
/// wait for a stream.
UniqueFd open_rereadable(const std::filesystem::path& path);

}  // namespace adept::io
