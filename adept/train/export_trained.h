// Exports a trained model to a model directory.
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

/// Field of method::kTrainingRecord: the training's position in its data.
inline constexpr char kDataPosition[] = "data";

/// A trained model and its starting point.
struct TrainedModel {
  const config::RunConfig& config;
  const std::filesystem::path& model_dir;  ///< from which training started
  const io::ModelIdentity& trained_from;   ///< of model_dir
  const io::WeightFiles& files;            ///< of model_dir
  const model::Decoder& decoder;
  const Trainable& trainable;
  optim::WholeTensors& tensors;  ///< whole masters of its parameters
  const std::optional<method::Expansion>& expansion;
  std::int64_t steps = 0;  ///< completed
  Json data;               ///< data::TrainLoader::state(), for a training that continues with the data
};

/// Writes a Hugging Face directory to `out_dir`, replacing it. With export_dtype auto, untrained tensors keep their
/// bytes and trained ones (with LoRA adapters merged) keep the dtype of the files; with fp32 or bf16, every tensor has
/// that dtype. config.json names the dtype that represents all of them exactly. Logs the effect of rounding, and warns
/// if it loses much of the trained change. Adds method::kTrainingRecord and, for an expanded model, the manifest.
/// Throws DataError if writing fails or a value is out of range of its dtype.
void export_trained(const TrainedModel& model, const std::filesystem::path& out_dir);

}  // namespace adept::train
