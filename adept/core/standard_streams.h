// Standard input, output and error, made such that work does not depend on who reads what is said.
#pragma once

namespace adept {

/// Call first in main. Descriptors 0 to 2 that are closed are opened on /dev/null, so that no other file gets their
/// numbers. From then on writing to `stdout` and `stderr` (the variables, so also by fmt and spdlog) never fails: what
/// cannot be written to standard error is dropped, and a failure of standard output is kept for output_error().
void open_standard_streams();

/// The error number of the first write to standard output that failed, 0 if none did. What is still in the buffer of
/// `stdout` was not written yet. A command that prints much asks between lines.
int output_error();

}  // namespace adept
