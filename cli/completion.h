// Shell completion, made from the commands and options themselves, so that it is always theirs.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace adept::cli {

/// Scripts that complete the commands of `app`, their options, the words that an option takes, the keys of --set and
/// files.
std::string bash_completion(const CLI::App& app);
std::string zsh_completion(const CLI::App& app);
std::string fish_completion(const CLI::App& app);

}  // namespace adept::cli
