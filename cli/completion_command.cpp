#include <fmt/format.h>

#include <memory>

#include "cli/commands.h"
#include "cli/completion.h"

namespace adept::cli {
namespace {

struct Shell {
  const char* name;
  std::string (*script)(const CLI::App& app);
};

constexpr Shell kShells[] = {{"bash", bash_completion}, {"zsh", zsh_completion}, {"fish", fish_completion}};

}  // namespace

void add_completion_command(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a shell completion script");
  const auto check = [](const std::string& name) -> std::string {
    for (const Shell& each : kShells)
      if (name == each.name) return "";
    return fmt::format("found \"{}\"; expected bash, zsh or fish", name);
  };
  command->add_option("shell", *shell, "Shell, for example: source <(adept completion bash)")
      ->required()
      ->check(CLI::Validator(check, "", ""))
      ->type_name("bash|zsh|fish");
  command->callback([&app, shell] {
    for (const Shell& each : kShells)
      if (*shell == each.name) fmt::print("{}", each.script(app));
  });
}

}  // namespace adept::cli
