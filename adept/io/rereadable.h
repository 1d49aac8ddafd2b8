// Text may come from what can be read only once: a pipe, /dev/stdin, a process substitution.
#pragma once

#include <filesystem>

#include "adept/core/file.h"

namespace adept::io {

/// Whether `path` is one of this process's descriptors (/dev/stdin, /dev/fd/3), whatever that is: a pipe, a terminal, a
/// file.
bool is_stream(const std::filesystem::path& path);

/// Opens for reading from the start, as often as wanted (a named pipe just once). A stream is read to its end the first
/// time, into a file without a name in the folder for temporary files. Throws DataError; InterruptedError if a signal
/// ends the wait for a stream.
UniqueFd open_rereadable(const std::filesystem::path& path);

}  // namespace adept::io
