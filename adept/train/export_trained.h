// From a training to the model directory that is its result.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "adept/config/run_config.h"
#include "adept/io/model_identity.h"
#include "adept/io/weight_files.h"
#include "adept/method/expansion.h"
#include "adept/model/decoder.h"
#include "adept/train/trainable.h"

namespace adept::train {

/// Field of method::kTrainingRecord: where the training was in its data.
inline constexpr char kDataPosition[] = "data";

/// A model as training left it, and what it started from.
struct TrainedModel {
  const config::RunConfig& config;
  const std::filesystem::path& model_dir;  ///< that training started from
  const io::ModelIdentity& trained_from;   ///< of model_dir
  const io::WeightFiles& files;            ///< of model_dir
  const model::Decoder& decoder;
  const Trainable& trainable;
  const std::optional<method::Expansion>& expansion;
  std::int64_t steps = 0;  ///< that were completed
  Json data;               ///< data::TrainLoader::state(), for a training that goes on with the data
};

/// Writes a Hugging Face directory in the place of `out_dir`. With export_dtype auto tensors that were not trained keep
/// their bytes and trained ones (LoRA's adapters merged into their projections) their element type in the files; with
/// fp32 or bf16 every tensor has that type. config.json names the type that holds all of them exactly. A line says what
/// rounding changed, a warning where it takes much of what was learnt. Beside it go method::kTrainingRecord and, of an
/// expanded model, the manifest. Throws DataError where it cannot be written, or a value is beyond its type's range.
void export_trained(const TrainedModel& model, const std::filesystem::path& out_dir);

}  // namespace adept::train
