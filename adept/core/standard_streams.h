// Standard input, output and error that never end a run, whoever reads them.
#pragma once

namespace adept {

/// Call before all else. Descriptors 0 to 2 that are closed are opened on /dev/null, so that no other file gets their
/// numbers. After that, writing to `stdout` and `stderr` (the variables, and so also fmt and spdlog) never fails:
/// output that standard error does not accept is dropped, and a failure of standard output is kept for output_error().
void open_standard_streams();

/// The error number of the first write to standard output that failed, 0 if none did. Data in the buffer of `stdout` is
/// not written yet. A command that prints a lot checks it between lines.
int output_error();

}  // namespace adept
