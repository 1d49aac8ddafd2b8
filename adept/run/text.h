// Text of the configuration, tokenized: for training, probing and evaluation.
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
#include "adept/method/beyond/source_mean.h"
#include "adept/run/model_context.h"

namespace adept::run {

/// Tokenizes one source into memory.
data::TokenDataset tokenize_source(const TextModel& model, const data::TextSource& source);

/// Tokenizes one source into `directory`/<name>.tokens, or maps that file if it was made from the same text, options
/// and tokenizer.
data::TokenDataset tokenize_source_cached(const TextModel& model, const data::TextSource& source,
                                          const std::filesystem::path& directory);

/// Every source of a configuration, in its order.
struct Datasets {
  std::vector<data::TokenDataset> train;
  std::vector<data::TokenDataset> replay;
  std::vector<data::TokenDataset> general;
  std::vector<data::TokenDataset> eval;
};
Datasets tokenize_all(const TextModel& model, const config::DataConfig& data, const std::filesystem::path& directory);

/// Logs documents, tokens, and what was skipped and why.
void print_counts(const std::vector<data::TokenDataset>& datasets);

/// Warns of each file that is both trained on and measured on: such a measurement says nothing of what was learnt.
void warn_of_shared_files(const config::RunConfig& config);

/// How documents become sequences. Packing needs the model's EOS token: see TextModel::eos.
struct ScoringOptions {
  std::int64_t seq_len = 512;
  std::int64_t stride = 0;      ///< 0 = seq_len
  bool packed = false;          ///< as training sees the data
  bool document_mask = true;    ///< where they are packed: documents do not see each other
  std::int64_t max_tokens = 0;  ///< a sample of so many; 0 = all
};
data::SequenceSet scoring_sequences(const TextModel& model, const data::TokenDataset& dataset,
                                    const ScoringOptions& options);

/// Several general sources as one: samples of equal shares of `max_tokens`, documents alone. Throws ConfigError if
/// there is none, or one that is shorter than a sequence; DataError for one where no token is predicted.
std::vector<data::SequenceSet> probe_sequences(const std::vector<data::TokenDataset>& general, std::int64_t seq_len,
                                               std::int64_t max_tokens);

/// Says how much of each text `stage` measures where that is a sample.
void tell_samples(const std::string& stage, const std::vector<data::SequenceSet>& sets);

/// The same for a file of results: a data::SampleSize for each name.
Json samples_json(const std::vector<data::SequenceSet>& sets);

/// "wiki+news".
std::string names_of(const std::vector<data::SequenceSet>& sets);

/// Padded batches of the sequences of each set, which is a source; similar lengths together. `weights` are those of the
/// sources in what is measured; empty: all the same.
std::vector<method::ProbeBatch> to_batches(const std::vector<data::SequenceSet>& sets, std::int64_t batch_size,
                                           at::Device device, const std::vector<double>& weights = {});

/// The weights of data.general.
std::vector<double> general_weights(const config::DataConfig& data);

/// The same as one part, or in `growing` parts of 1/2^n, 1/2^n, ..., 1/4 and 1/2 of each set, its sequences in random
/// order: for a probe that may stop early. The first part has 32 sequences or more, or is all there is.
std::vector<std::vector<method::ProbeBatch>> to_parts(const std::vector<data::SequenceSet>& sets,
                                                      std::int64_t batch_size, at::Device device, bool growing,
                                                      const std::vector<double>& weights = {});

/// The training mixture of a configuration: data.train, and of data.replay the share that train.replay_ratio says.
data::TrainLoader make_train_loader(const TextModel& model, const config::RunConfig& config, const Datasets& datasets);

}  // namespace adept::run
