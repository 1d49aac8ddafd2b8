// The subcommands of `adept`, in the order of the help. To add one: write cli/<name>_command.cpp with
//
//     namespace adept::cli {
//     namespace {
//     struct Options { std::string model; config::Compute compute; };   // what the command line sets
//     void run(Options& options) { run::init_compute(options.compute); ... }
//     }  // namespace
//     void add_name_command(CLI::App& app) {
//       auto options = std::make_shared<Options>();
//       CLI::App* command = app.add_subcommand("name", "One line, without a full stop");
//       add_model_option(*command, options->model);             // shared options: cli/options.h
//       add_compute_options(*command, options->compute);
//       command->callback([options] { run(*options); });
//     }
//     }  // namespace adept::cli
//
// and add it here twice. Results go to standard output (fmt::print), messages to the log; failures are exceptions,
// which run_program turns into one message and an exit code.
#pragma once

#include <CLI/CLI.hpp>

namespace adept::cli {

void add_import_gguf_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_probe_command(CLI::App& app);
void add_expand_command(CLI::App& app);
void add_expand_vocab_command(CLI::App& app);
void add_train_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_run_command(CLI::App& app);
void add_dial_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_data_command(CLI::App& app);
void add_plan_command(CLI::App& app);
void add_config_command(CLI::App& app);
void add_completion_command(CLI::App& app);

using AddCommand = void (*)(CLI::App& app);

inline constexpr AddCommand kCommands[] = {
    add_import_gguf_command, add_tokenize_command, add_probe_command,  add_expand_command,     add_expand_vocab_command,
    add_train_command,       add_eval_command,     add_run_command,    add_dial_command,       add_generate_command,
    add_data_command,        add_plan_command,     add_config_command, add_completion_command,
};

}  // namespace adept::cli
