// Tokenizes the configuration's text for training, probing and evaluation.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/core/json.h"
#include "adept/data/sequences.h"
#include "adept/data/text_source.h"
#include "adept/data/token_dataset.h"
#include "adept/data/train_loader.h"
#include "adept/eval/options.h"
#include "adept/method/beyond/source_mean.h"
#include "adept/run/model_context.h"

namespace adept::run {

/// Every source of a configuration, in its order.
struct Datasets {
  std::vector<data::TokenDataset> train;
  std::vector<data::TokenDataset> replay;
  std::vector<data::TokenDataset> general;
  std::vector<data::TokenDataset> eval;
  /// Documents that are not trained on: of each source of train, then of each of replay; ascending. Empty: none.
  std::vector<std::vector<std::int64_t>> excluded{};
};
/// The stores of a configuration's texts. Every process of the job calls it: those with cores of their own (of the
/// processes that share some, the first) divide the sources, each with all of its cores; then all open every store. A
/// cache that machines do not share gets every store on each of them.
Datasets tokenize_all(const TextModel& model, const config::DataConfig& data, const std::filesystem::path& directory);

/// The tokens of `sources` for a command, which has no directory for stores: one process keeps them in memory. The
/// processes of a job all call it, and divide the sources as in tokenize_all(), with stores in the user's cache; if one
/// of them has no cache, each tokenizes every source into memory.
std::vector<data::TokenDataset> tokenize_for_command(const TextModel& model,
                                                     const std::vector<data::TextSource>& sources);

/// Logs documents, tokens, and skipped records by reason.
void print_counts(const std::vector<data::TokenDataset>& datasets);

/// Warns about each file used for both training and evaluation.
void warn_of_shared_files(const config::RunConfig& config);

/// Sequences to score, of at most `seq_len` tokens; packed ones with or without a document mask. Packing requires the
/// model's EOS token: see TextModel::eos.
data::SequenceSet scoring_sequences(const TextModel& model, const data::TokenDataset& dataset,
                                    const eval::EvalOptions& options, std::int64_t seq_len, bool document_mask);

/// Several general sources as one: samples of equal shares of `max_tokens`, each document alone. Throws ConfigError if
/// there is no source, or one shorter than a sequence; DataError for one without a predicted token.
std::vector<data::SequenceSet> probe_sequences(const std::vector<data::TokenDataset>& general, std::int64_t seq_len,
                                               std::int64_t max_tokens);

/// Logs the sample size of each text that `stage` measures only partly.
void tell_samples(const std::string& stage, const std::vector<data::SequenceSet>& sets);

/// The same for a file of results: a data::SampleSize for each name.
Json samples_json(const std::vector<data::SequenceSet>& sets);

/// "wiki+news".
std::string names_of(const std::vector<data::SequenceSet>& sets);

/// Padded batches of the sequences of each set (one per source), grouped by length. `weights` of the sources; empty:
/// equal.
std::vector<method::ProbeBatch> to_batches(const std::vector<data::SequenceSet>& sets, std::int64_t batch_size,
                                           at::Device device, const std::vector<double>& weights = {});

/// The weights of data.general.
std::vector<double> general_weights(const config::DataConfig& data);
/// The same as shares of their sum, by name: {name: {"weight": share}}.
Json general_shares(const config::DataConfig& data);
/// What decides the mixture besides the texts: {name: {"weight", "epochs", "max_tokens", "tag"}}; null: not set.
Json mixture_json(const std::vector<config::TrainSource>& sources);

/// The batches of to_batches() as one round or, if `growing`, in rounds of 1/2^n, 1/2^n, ..., 1/4 and 1/2 of each set,
/// its sequences in random order: for a probe that may stop early. The first round has at least 32 sequences, or all of
/// them.
std::vector<std::vector<method::ProbeBatch>> to_rounds(const std::vector<data::SequenceSet>& sets,
                                                       std::int64_t batch_size, at::Device device, bool growing,
                                                       const std::vector<double>& weights = {});

/// The training mixture of a configuration: data.train, and data.replay with the share train.replay_ratio.
data::TrainLoader make_train_loader(const TextModel& model, const config::RunConfig& config, const Datasets& datasets);

}  // namespace adept::run
