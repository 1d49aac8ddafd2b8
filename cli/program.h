// The whole program: command line, logging, signals, exit codes.
#pragma once

namespace adept::cli {

/// Runs the command that `argv` names and ends the process with its exit code (core/error.h).
[[noreturn]] void run_program(int argc, char** argv);

}  // namespace adept::cli
