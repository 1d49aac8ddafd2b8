// Selective expansion (ADEPT, section 3.2): an identity copy directly behind each of the least important layers.
//
// In a copy the residual outputs (model::Role) have no effect: o_proj and down_proj are zero, or the gains of the norms
// behind them. So the block adds nothing to the residual stream, and the expanded model's logits equal the base model's
// by value. Everything else of the base keeps its bytes.
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

/// What was expanded, and from what: the manifest. Trained layers are found from it, never guessed from zeros.
struct Expansion {
  std::optional<io::ModelIdentity> base;  ///< set in what this build makes
  int base_num_hidden_layers = 0;
  std::vector<ExpandedLayer> layers;     ///< ascending
  std::optional<Importance> importance;  ///< the scores that led to the choice, where it was made by scores
};

/// The one check of a layer's index. Throws ConfigError, with `what` as the place, unless it is in 0 .. L-1; `model`
/// says whose layers these are.
void check_layer_index(std::string_view what, std::int64_t layer, std::int64_t num_layers,
                       std::string_view model = "the model");

/// Where the copies go. `after` holds base indices, an index once for each copy of that layer. Throws ConfigError
/// unless they are ascending and in 0 .. L-1.
std::vector<ExpandedLayer> place_copies(std::span<const int> after, int base_num_hidden_layers);

/// Index in the expanded model of a layer of the base model.
int expanded_index(int base_index, std::span<const ExpandedLayer> copies);

/// config.json of the expanded model: num_hidden_layers, and what `fields` are made of. A period, and a list with an
/// entry per layer that is not among them, is a DataError that names it; `where` is the file.
Json expand_config(const Json& config, std::span<const model::LayerField> fields, std::span<const ExpandedLayer> copies,
                   const std::string& where);
/// That of `base`, with its architecture's fields. DataError where a layer would no longer compute the same.
Json expand_config(const model::ModelConfig& base, std::span<const ExpandedLayer> copies, const std::string& where);

/// Name of a base tensor in the expanded model: `model.layers.7.` may become `model.layers.9.`, other names stay.
std::string expanded_name(const std::string& name, std::span<const ExpandedLayer> copies);

/// Writes the expanded model directory, all of it or nothing: weights, config.json, tokenizer files, manifest, the
/// training record of a base that was trained. Nothing but the tensors' bytes is held in memory, and those are mapped.
/// Throws ConfigError for a wrong choice of layers, DataError for anything about files, and for scores that are of
/// another model.
Expansion expand_model(const std::filesystem::path& base_dir, const std::filesystem::path& out_dir,
                       std::span<const int> after, const std::optional<Importance>& importance,
                       io::OnExisting on_existing = io::OnExisting::kFail);

/// File name of the record in a trained model's directory: what trained it, from what, and where that was in its data.
inline constexpr char kTrainingRecord[] = "adept_training.json";
/// Copies it, if there is one, to a model that is made of the trained one: a training of that can go on with the data.
void copy_training_record(const std::filesystem::path& from, const std::filesystem::path& to);

Json to_json(const Expansion& expansion);
/// Reads the manifest of an expanded model. Throws DataError; a model that was never expanded gets told how.
Expansion read_expansion(const std::filesystem::path& model_dir);

}  // namespace adept::method
