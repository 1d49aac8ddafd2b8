// The tensors that each method trains: ADEPT and its alternatives, in the same engine.
//
//   adept, llama_pro   the identity copies of an expanded model (LLaMA-Pro: arXiv 2401.02415)
//   full, replay       every parameter
//   lora               low-rank adapters of projections (arXiv 2106.09685), merged when the model is exported
//   top_k_layers       the last k layers
//
// and, with train.train_new_embeddings, the rows of tokens that were added to the model (model/expand_vocabulary.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "adept/config/run_config.h"
#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/method/units.h"
#include "adept/model/decoder.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// End of the name of the trained rows of a table, as a tensor and as a unit: "model.embed_tokens.weight/new_tokens".
inline constexpr std::string_view kNewTokenRows = "/new_tokens";

/// The values with which a parameter starts to train, or its rows (count) int64 if they are defined: fp32, a copy, on
/// the decoder's device.
using InitialValues = std::function<at::Tensor(const model::Parameter& parameter, const at::Tensor& rows)>;
/// Those in `files`, which must outlive the result.
InitialValues values_of(const io::WeightFiles& files, at::Device device);

/// The tensors that the configuration's method trains. Initial values come from `files` in full precision. LoRA
/// adapters are added to the decoder: B is 0, A uniform in +-1/sqrt(D) by the seed, as in peft. `expansion` is for the
/// methods that expand. Rows of new tokens (nn::TrainedRows) are added to the decoder, too; a tied head has the
/// embedding's. Throws ConfigError for more layers than there are, and for a model without new tokens.
std::vector<TrainedTensor> trained_tensors(const config::RunConfig& config, model::Decoder& decoder,
                                           const std::optional<method::Expansion>& expansion,
                                           const io::WeightFiles& files);
/// Whether the method trains this parameter itself.
bool trains(const config::RunConfig& config, const model::ModelConfig& model,
            const std::optional<method::Expansion>& expansion, const model::Parameter& parameter);
/// With other initial values; `model_dir` tells the new tokens. LoRA's are the same.
std::vector<TrainedTensor> trained_tensors(const config::RunConfig& config, model::Decoder& decoder,
                                           const std::optional<method::Expansion>& expansion,
                                           const std::filesystem::path& model_dir, const InitialValues& values);

/// Adds LoRA's adapters to the projections that the configuration names.
std::vector<TrainedTensor> add_adapters(const config::RunConfig& config, model::Decoder& decoder);

/// The tensors of the copies.
std::vector<TrainedTensor> expanded_tensors(model::Decoder& decoder, const method::Expansion& expansion,
                                            const io::WeightFiles& files);

/// The units of the copies; of other methods every trained parameter is one. So are the rows of new tokens.
std::vector<method::Unit> training_units(const config::RunConfig& config,
                                         const std::optional<method::Expansion>& expansion,
                                         const model::Decoder& decoder, const Trainable& trainable);

/// Throws ConfigError if the model of this folder cannot be trained as configured. Call before anything is loaded.
void check_method(const config::RunConfig& config, const model::ModelConfig& model,
                  const std::filesystem::path& model_dir);

}  // namespace adept::train
