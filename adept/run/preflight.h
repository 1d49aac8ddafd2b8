// What a configuration cannot tell by itself: whether the files that it names are there and fit it, and what follows
// from them. All of it is checked before anything is computed, and all problems are reported at once.
#pragma once

#include "adept/config/run_config.h"
#include "adept/run/model_context.h"
#include "adept/run/text.h"

namespace adept::run {

/// Checks the model with its tokenizer and weights, what the configuration says of the model, every path of a text, and
/// output_dir, and makes nothing. Warns of sequences that are longer than the model was made for, and of text that is
/// both trained on and measured on. Returns the model, which it had to read.
///
/// Throws one ConfigError (or DataError, if no problem is one) of all problems.
TextModel check_files(const config::RunConfig& config, config::Purpose purpose);

/// Checks what follows from the tokens: that every text has enough of them for what is done with it, and that warm-up
/// and decay fit a length that epochs give. Warns of a step that takes more than an epoch, and of text that no sequence
/// is taken from. Throws as check_files does.
void check_text(const config::RunConfig& config, config::Purpose purpose, const TextModel& model,
                const Datasets& datasets);

/// The sequences of a set of data.eval.
data::SequenceSet eval_sequences(const config::RunConfig& config, const TextModel& model,
                                 const data::TokenDataset& dataset);

/// Where the run that made the model stopped in its data (train::kDataPosition). Throws ConfigError if the model does
/// not say it.
Json data_position(const std::filesystem::path& model_dir);

/// Whether layers are measured: the choice of those that are copied goes by scores.
bool probes(const config::RunConfig& config, config::Purpose purpose);
/// Whether that measures the first source of data.train too: the method `gain`, by which the strategy goes.
bool probes_domain(const config::RunConfig& config, config::Purpose purpose);

}  // namespace adept::run
