// Converts an exception to one message on standard error and an exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>
#include <string>

namespace adept::cli {

struct Failure {
  int exit_code;
  std::string message;  ///< empty: nothing to print (the reader of standard output has exited)
};

/// The message and exit code for an exception that left a command. libtorch's messages are cut to their first line.
Failure describe_failure(std::exception_ptr exception);

/// The message for a command line that CLI11 rejected, with the nearest valid name.
Failure describe_usage_error(const CLI::App& app, const CLI::ParseError& error, int argc, const char* const* argv);

}  // namespace adept::cli
