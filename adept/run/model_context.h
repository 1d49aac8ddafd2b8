// A model for the stages of a run: its directory, its tokenizer and configuration, and its decoder on demand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/data/text_encoder.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "adept/model/batch.h"
#include "adept/model/config.h"

namespace adept::run {

/// Tokenizer and configuration of a model directory. Parts that a command does not use are not checked.
struct TextModel {
  std::filesystem::path dir;
  model::ModelConfig config;
  data::Tokenizer tokenizer;

  /// Valid while this object lives. Ids are checked against the rows of the model's embeddings.
  /// Conversations are rendered by the model's chat template; throws DataError if it has none.
  data::TextEncoder encoder(const data::TextSource& source) const;

  /// The token between packed documents. Throws DataError if the model names none, or one that it lacks.
  std::int32_t eos() const;
};

/// Resolves a directory or Hub id and reads config and tokenizer. Throws DataError.
TextModel load_text_model(const std::string& directory_or_hub_id);

/// Warns if `length` tokens (named `what` in the message) exceed the model's maximum.
void warn_of_long_sequences(const model::ModelConfig& config, const std::filesystem::path& dir, const std::string& what,
                            std::int64_t length);
/// The same for seq_len.
void warn_of_long_sequences(const TextModel& model, std::int64_t seq_len);

/// Sets ATen's threads, the kernels and the allocator for this process; resolves and logs the dtype auto; warns if bf16
/// is slow on this processor. Call it before anything else uses `compute`. Throws ConfigError for a device or an
/// instruction set ($ADEPT_INSTRUCTION_SET) that is missing.
void init_compute(config::Compute& compute);

/// The threads of a process while those that share its cores wait for it: theirs, too.
int threads_while_others_wait();

/// The same as init_compute for measuring `model_dir`: the dtype auto is fp32 if its files contain fp32 matrices,
/// because rounding them would change the result.
void init_compute_to_measure(config::Compute& compute, const std::filesystem::path& model_dir);

}  // namespace adept::run
