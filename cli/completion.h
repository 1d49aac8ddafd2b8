// Shell completion, generated from the commands and options, so it never goes out of date.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace adept::cli {

/// Scripts that complete the commands of `app`, their options, the values of an option, the keys of --set and files.
std::string bash_completion(const CLI::App& app);
std::string zsh_completion(const CLI::App& app);
std::string fish_completion(const CLI::App& app);

}  // namespace adept::cli
