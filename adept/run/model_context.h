// A model as the stages of a run need it: where it is, its text side, and its decoder on demand.
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
#include "adept/model/decoder.h"

namespace adept::run {

/// The text side of a model directory. What a command does not use is not checked.
struct TextModel {
  std::filesystem::path dir;
  model::ModelConfig config;
  data::Tokenizer tokenizer;

  /// Valid while this object lives. Ids are checked against the rows of the model's embeddings.
  data::TextEncoder encoder() const { return data::make_text_encoder(tokenizer, config.vocab_size); }

  /// The token between packed documents. Throws DataError where the model names none, or one that it does not have.
  std::int32_t eos() const;
};

/// Resolves a directory or hub id and reads config and tokenizer. Throws DataError.
TextModel load_text_model(const std::string& directory_or_hub_id);

/// Loads the weights for computing so. Throws DataError; ConfigError for a device that is not
/// there.
model::Decoder load_decoder(const std::filesystem::path& model_dir, const config::Compute& compute);

/// Warns where `length` tokens, which the message calls `what`, are more than the model was made for.
void warn_of_long_sequences(const model::ModelConfig& config, const std::filesystem::path& dir, const std::string& what,
                            std::int64_t length);
/// The same for seq_len.
void warn_of_long_sequences(const TextModel& model, std::int64_t seq_len);

/// Sets ATen's threads, the kernels and the allocator for this process; decides the dtype auto, and says so; warns
/// where bf16 is slow on this processor. Call it before anything else uses `compute`. Throws ConfigError for a device
/// or an instruction set ($ADEPT_INSTRUCTION_SET) that is not there.
void init_compute(config::Compute& compute);

/// The same for the losses of `model_dir`: the dtype auto is fp32 where its files hold matrices in fp32, as rounding
/// those would change what is measured.
void init_compute_to_measure(config::Compute& compute, const std::filesystem::path& model_dir);

at::Device to_device(config::Device device);

}  // namespace adept::run
