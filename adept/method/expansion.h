// Selective expansion (ADEPT, section 3.2): inserts an identity copy directly after each of the least important layers.
//
// The residual outputs of a copy (model::Role) have no effect: o_proj and down_proj are zero, or the gains of the norms
// after them. The block adds nothing to the residual stream, so the expanded model's logits equal the base model's.
// Everything else in the base keeps its bytes.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/core/json.h"
#include "adept/io/atomic_file.h"
#include "adept/method/beyond/scores.h"
#include "adept/model/architectures/architecture.h"
#include "adept/model/weights.h"

namespace adept::method {

/// File name of the manifest in an expanded model's directory.
inline constexpr char kExpansionManifest[] = "adept_expansion.json";

/// One identity copy.
struct ExpandedLayer {
  int source = 0;  ///< index of the copied layer in the base model
  int index = 0;   ///< index of the copy in the expanded model
};

/// The manifest of an expansion. Trained layers are identified from it, never guessed from zeros.
struct Expansion {
  std::optional<io::ModelIdentity> base;  ///< set by this build
  int base_num_hidden_layers = 0;
  std::vector<ExpandedLayer> layers;     ///< ascending
  std::optional<Importance> importance;  ///< the scores used for the selection, if any
};

/// The one check of a layer's index. Throws ConfigError, with `what` as the place, unless it is in 0 .. L-1; `model`
/// says whose layers these are.
void check_layer_index(std::string_view what, std::int64_t layer, std::int64_t num_layers,
                       std::string_view model = "the model");

/// The positions of the copies. `after` contains base indices, repeated per copy. Throws ConfigError unless they are
/// ascending and in 0 .. L-1.
std::vector<ExpandedLayer> place_copies(std::span<const int> after, int base_num_hidden_layers);

/// Index in the expanded model of a layer of the base model.
int expanded_index(int base_index, std::span<const ExpandedLayer> copies);

/// config.json of the expanded model: updates num_hidden_layers and `fields`. A list with one entry per layer that is
/// not in `fields` is a DataError that names it; `where` is the file.
Json expand_config(const Json& config, std::span<const model::LayerField> fields, std::span<const ExpandedLayer> copies,
                   const std::string& where);
/// The same for `base`, with its architecture's fields. DataError if a layer would no longer compute the same.
Json expand_config(const model::ModelConfig& base, std::span<const ExpandedLayer> copies, const std::string& where);

/// Name of a base tensor in the expanded model: `model.layers.7.` may become `model.layers.9.`; other names do not
/// change.
std::string expanded_name(const std::string& name, std::span<const ExpandedLayer> copies);

/// Writes the expanded model directory atomically: weights, config.json, tokenizer files, manifest, and the training
/// record of a trained base. Tensors are mapped, not loaded. Throws ConfigError for an invalid choice of layers;
/// DataError for file problems and for scores of another model.
Expansion expand_model(const std::filesystem::path& base_dir, const std::filesystem::path& out_dir,
                       std::span<const int> after, const std::optional<Importance>& importance,
                       io::OnExisting on_existing = io::OnExisting::kFail);

/// File name of the record in a trained model's directory: the method, the starting model, and the position in the
/// data.
inline constexpr char kTrainingRecord[] = "adept_training.json";
/// Copies it, if present, to a model derived from the trained one, so that its training can continue with the data.
void copy_training_record(const std::filesystem::path& from, const std::filesystem::path& to);

Json to_json(const Expansion& expansion);
/// Reads the manifest of an expanded model. Throws DataError; for a model without copies, the message says how to
/// expand it.
Expansion read_expansion(const std::filesystem::path& model_dir);

}  // namespace adept::method
