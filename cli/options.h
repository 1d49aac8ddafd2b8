// Command line options that several subcommands share, each with one spelling, one default and one check. Every target
// must outlive the parse: keep it in the options struct that the command's callback owns.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"

namespace adept::cli {

/// --model DIR (required): a model directory or a Hub id.
CLI::Option* add_model_option(CLI::App& command, std::string& model);
/// Upper limit of options for sequence lengths.
inline constexpr std::int64_t kMaxSequence = std::int64_t{1} << 20;

/// `name` N with `least` <= N <= `most`; `target` holds the default.
CLI::Option* add_count_option(CLI::App& command, const std::string& name, std::int64_t& target, std::int64_t least,
                              std::int64_t most, const std::string& description);
/// --seq-len N: the longest sequence, in tokens.
CLI::Option* add_seq_len_option(CLI::App& command, std::int64_t& seq_len);
/// --batch-size N: sequences per forward pass.
CLI::Option* add_batch_size_option(CLI::App& command, std::int64_t& batch_size);
/// --max-tokens N; 0 = all.
CLI::Option* add_max_tokens_option(CLI::App& command, std::int64_t& max_tokens, const std::string& description);
/// --dtype, --device, --threads, --kernels. Then call run::init_compute.
void add_compute_options(CLI::App& command, config::Compute& compute);
/// CONFIG.yaml, a required positional (which is returned), --set KEY=VALUE, repeatable, and --dtype, --device,
/// --threads and --kernels for four of them: the arguments of config::load_run_config.
CLI::Option* add_config_options(CLI::App& command, std::string& path, std::vector<std::string>& overrides);

/// --verify, for data.verify.
void add_verify_flag(CLI::App& command, std::vector<std::string>& overrides);

/// --continue-data, for train.continue_data.
void add_continue_data_flag(CLI::App& command, std::vector<std::string>& overrides);
/// Adds --allow-changed.
void add_allow_changed_option(CLI::App& command, data::OtherMixture& other);

/// --nproc N: processes on this machine.
void add_nproc_option(CLI::App& command, std::int64_t& nproc);
/// With `nproc` > 1, runs the command in so many processes, then throws Error without a message if one failed. Returns
/// whether it did; otherwise the caller runs the command. Throws ConfigError if this process is already one of several.
bool ran_in_processes(std::int64_t nproc);

/// Values of --data and the options that go with it.
struct DataOptions {
  std::string option = "--data";  ///< for messages
  std::vector<std::string> data;  ///< each NAME=PATH or PATH
  data::TextSource source;        ///< every option but the name and the paths
};

/// --data NAME=PATH or PATH (repeatable, required), and the options of add_text_options().
void add_data_options(CLI::App& command, DataOptions& options);

/// --format, --split, --text-field, --template, --messages-field, --train-on, --txt-record, --on-bad-record.
void add_text_options(CLI::App& command, DataOptions& options);

/// The sources that the options specify, in order. A PATH without a name gets that of its file, without folder and
/// extensions; paths of equal names given as NAME=PATH form one source.
///
/// Throws ConfigError for an empty path, a bad name, two files that would get the same name, or options that contradict
/// each other.
std::vector<data::TextSource> sources(const DataOptions& options);
/// The same for an option other than --data.
std::vector<data::TextSource> sources(DataOptions options, const std::string& option,
                                      const std::vector<std::string>& data);

/// Checks at the start of a command. Throws one ConfigError for all sources whose files cannot be found, and if --out
/// (unless empty) is an input of a source or would become one.
void check_data(const std::vector<data::TextSource>& sources, const std::string& out);

/// Throws ConfigError if --out (unless empty) is an existing file of the model, which would be overwritten.
void check_output_is_not_of_model(const std::string& out, const std::filesystem::path& model_dir);

/// "0.4,1,0" as numbers. Throws ConfigError for anything else, and for a number for which `is_good` is false;
/// `expected` describes valid numbers.
std::vector<double> parse_numbers(const std::string& option, const std::string& text, bool (*is_good)(double),
                                  const std::string& expected);

/// Throws ConfigError if the `text` of an option is not UTF-8.
void require_utf8(const std::string& option, const std::string& text);

/// Throws if an output directory exists and must not be replaced: without `force`; if it is or contains one of `inputs`
/// (the model first, then other files and folders); or if it is neither empty nor a model directory (it has no
/// config.json).
void check_output_directory(const std::string& out, const std::vector<std::filesystem::path>& inputs, bool force);

}  // namespace adept::cli
