// Generates text, one sequence at a time, to inspect a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <vector>

#include "adept/model/decoder.h"

namespace adept::model {

struct GenerateOptions {
  std::int64_t max_new_tokens = 128;
  double temperature = 0;  ///< 0: greedy; else logits are divided by it before sampling
  double top_p = 1.0;      ///< sample from the smallest set of tokens whose probability reaches this
  std::uint64_t seed = 0;  ///< token i of a run is a pure function of (seed, i, the tokens before)
  bool use_cache = true;   ///< false recomputes everything for each token; for tests
  std::vector<std::int64_t> eos_token_ids = {};  ///< generation ends after one of these
};

/// Throws ConfigError for options that cannot be meant.
void check_generate_options(const GenerateOptions& options);

/// The tokens that end a text of this model: eos_token_id of generation_config.json if present (as in transformers),
/// else of config.json. Throws DataError, also for an id outside the vocabulary.
std::vector<std::int64_t> read_end_tokens(const std::filesystem::path& model_dir, const ModelConfig& config);

/// The new tokens after `prompt` (not empty), the ending one included. `on_token` is called for each as it comes;
/// returning false ends the generation. Throws ConfigError for impossible options, InterruptedError if a signal arrives
/// within a pass.
std::vector<std::int64_t> generate(const Decoder& decoder, std::span<const std::int64_t> prompt,
                                   const GenerateOptions& options,
                                   const std::function<bool(std::int64_t)>& on_token = {});

/// The token that `logits` (V) give for uniform number u in [0, 1): greedy, or by temperature and top-p. Ties go to the
/// smaller id. Exposed for tests.
std::int64_t sample_token(const at::Tensor& logits, double temperature, double top_p, double u);

}  // namespace adept::model
