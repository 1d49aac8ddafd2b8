// Checks a configuration against its files, before anything is computed. All problems are reported at once.
#pragma once

#include "adept/config/run_config.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"

namespace adept::run {

/// Checks the model with its tokenizer and weights, the options that depend on the model, every path of a text, and
/// output_dir. Creates nothing. Warns about sequences longer than the model's maximum, and about text used for both
/// training and evaluation. Returns the model that it read.
///
/// Throws one ConfigError (or DataError, if all problems are of files) with all problems.
TextModel check_files(const config::RunConfig& config, config::Purpose purpose);

/// Checks constraints that depend on the number of tokens: every text has enough tokens, and warm-up and decay fit the
/// length of num_train_epochs. Warns about a step larger than an epoch, and about text that provides no sequence.
/// Throws like check_files.
void check_text(const config::RunConfig& config, config::Purpose purpose, const TextModel& model,
                const Datasets& datasets);

/// The sequences of a set of data.eval.
data::SequenceSet eval_sequences(const config::RunConfig& config, const TextModel& model,
                                 const data::TokenDataset& dataset);

/// The data position at which the run that trained the model stopped (train::kDataPosition). Throws ConfigError if the
/// model has no record of it.
Json data_position(const std::filesystem::path& model_dir);

/// Whether layers are probed, because the selection uses scores.
bool probes(const config::RunConfig& config, config::Purpose purpose);
/// The importance method: the one that expand.strategy requires, or probe.method.
std::string probe_method(const config::RunConfig& config);
/// Whether the probe measures the first source of data.train too, because its method requires domain text.
bool probes_domain(const config::RunConfig& config, config::Purpose purpose);

}  // namespace adept::run
