#include "adept/method/expansion.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/mapped_file.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/method/json_field.h"
#include "adept/model/config.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/weights.h"

namespace adept::method {
namespace {

constexpr int kManifestVersion = 1;

// One entry per layer: a copy gets its source's.
constexpr std::array<std::string_view, 2> kPerLayerLists = {"layer_types", "mlp_layer_types"};
// "Layers from here on": moves behind the copies of the layers before it.
constexpr std::array<std::string_view, 1> kLayerThresholds = {"max_window_layers"};
// Lists of layer indices: a copy joins where its source is a member.
constexpr std::array<std::string_view, 1> kLayerIndexLists = {"mlp_only_layers"};
// Rules over layer indices that no longer hold once copies are inserted; fine where they hold for every layer alike.
constexpr std::array<std::string_view, 11> kPeriods = {
    "sliding_window_pattern", "decoder_sparse_step", "full_attention_interval",   "interleave_moe_layer_step",
    "no_rope_layer_interval", "attn_layer_period",   "attn_layer_offset",         "expert_layer_period",
    "expert_layer_offset",    "moe_layer_freq",      "global_attn_every_n_layers"};
// Lists that are no matter of layers even where their length is that of the layers.
constexpr std::array<std::string_view, 3> kOtherLists = {"architectures", "eos_token_id", "pad_token_id"};

template <std::size_t N>
bool contains(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

struct LayerTensorName {
  int layer;
  std::string rest;  // "self_attn.q_proj.weight"
};

std::optional<LayerTensorName> split_layer_name(std::string_view name) {
  std::int64_t layer = 0;
  std::string rest;
  if (!model::split_layer_parameter_name(name, layer, rest)) return std::nullopt;
  return LayerTensorName{static_cast<int>(layer), rest};
}

std::vector<ExpandedLayer> copies_of(int source, std::span<const ExpandedLayer> copies) {
  std::vector<ExpandedLayer> found;
  for (const ExpandedLayer& copy : copies)
    if (copy.source == source) found.push_back(copy);
  return found;
}

Json splice_list(const Json& list, std::span<const ExpandedLayer> copies) {
  Json result = Json::array();
  for (std::size_t i = 0; i < list.size(); ++i) {
    result.push_back(list[i]);
    for (std::size_t n = copies_of(static_cast<int>(i), copies).size(); n > 0; --n) result.push_back(list[i]);
  }
  return result;
}

Json remap_indices(const Json& list, std::span<const ExpandedLayer> copies) {
  Json result = Json::array();
  for (const Json& entry : list) {
    const int index = entry.get<int>();
    result.push_back(expanded_index(index, copies));
    for (const ExpandedLayer& copy : copies_of(index, copies)) result.push_back(copy.index);
  }
  return result;
}

// A tensor list of the expanded model; `zeros` backs the zeroed tensors.
std::vector<io::TensorView> expanded_tensors(const io::WeightFiles& weights, std::span<const ExpandedLayer> copies,
                                             std::vector<std::byte>& zeros) {
  std::size_t largest = 0;
  for (const std::string& name : weights.names()) {
    const auto split = split_layer_name(name);
    if (split && contains(kLayerOutputs, split->rest)) largest = std::max(largest, weights.at(name).data.size());
  }
  zeros.assign(largest, std::byte{0});
  std::vector<io::TensorView> tensors;
  for (const std::string& name : weights.names()) {
    io::TensorView tensor = weights.at(name);
    tensor.name = expanded_name(name, copies);
    tensors.push_back(tensor);
    const auto split = split_layer_name(name);
    if (!split) continue;
    if (contains(kLayerOutputs, split->rest)) tensor.data = std::span(zeros).first(tensor.data.size());
    for (const ExpandedLayer& copy : copies_of(split->layer, copies)) {
      tensor.name = model::layer_parameter_name(copy.index, split->rest);
      tensors.push_back(tensor);
    }
  }
  return tensors;
}

// Catches a default that depends on the depth, such as Qwen's max_window_layers: a layer must see what it saw.
void check_windows(const model::ModelConfig& base, const model::ModelConfig& expanded,
                   std::span<const ExpandedLayer> copies, const std::string& where) {
  for (int l = 0; l < static_cast<int>(base.num_hidden_layers); ++l) {
    const std::int64_t window = base.sliding_window[static_cast<std::size_t>(l)];
    std::vector<int> indices = {expanded_index(l, copies)};
    for (const ExpandedLayer& copy : copies_of(l, copies)) indices.push_back(copy.index);
    for (const int index : indices)
      if (const std::int64_t found = expanded.sliding_window[static_cast<std::size_t>(index)]; found != window)
        throw DataError(
            "{}: cannot be expanded: layer {} sees {} tokens (0 = all), as layer {} of the deeper model it would see "
            "{}. Write layer_types or max_window_layers, which have defaults, into the file.",
            where, l, window, index, found);
  }
}

}  // namespace

std::vector<ExpandedLayer> place_copies(std::span<const int> after, int base_num_hidden_layers) {
  if (after.empty()) throw ConfigError("layers to expand: found none, expected at least one.");
  std::vector<ExpandedLayer> copies;
  for (const int source : after) {
    if (source < 0 || source >= base_num_hidden_layers)
      throw ConfigError("layers to expand: found {}, expected indices from 0 to {} (the model has {} layers).", source,
                        base_num_hidden_layers - 1, base_num_hidden_layers);
    if (!copies.empty() && source < copies.back().source)
      throw ConfigError("layers to expand: found {} after {}, expected ascending indices.", source,
                        copies.back().source);
    copies.push_back({.source = source, .index = source + 1 + static_cast<int>(copies.size())});
  }
  return copies;
}

int expanded_index(int base_index, std::span<const ExpandedLayer> copies) {
  return base_index + static_cast<int>(std::count_if(copies.begin(), copies.end(),
                                                     [&](const ExpandedLayer& c) { return c.source < base_index; }));
}

std::string expanded_name(const std::string& name, std::span<const ExpandedLayer> copies) {
  const auto split = split_layer_name(name);
  return split ? model::layer_parameter_name(expanded_index(split->layer, copies), split->rest) : name;
}

Json expand_config(const Json& config, std::span<const ExpandedLayer> copies, const std::string& where) {
  const int num_layers = config.at("num_hidden_layers").get<int>();
  Json result = config;
  std::vector<std::string> problems;
  for (const auto& [key, value] : config.items()) {
    const bool one_per_layer = value.is_array() && static_cast<int>(value.size()) == num_layers;
    if (value.is_null()) continue;
    if (contains(kPerLayerLists, key)) {
      if (one_per_layer)
        result[key] = splice_list(value, copies);
      else
        problems.push_back(
            fmt::format("{} has {} entries, expected num_hidden_layers = {}", key, value.size(), num_layers));
    } else if (contains(kLayerThresholds, key)) {
      result[key] = expanded_index(value.get<int>(), copies);
    } else if (contains(kLayerIndexLists, key)) {
      result[key] = remap_indices(value, copies);
    } else if (contains(kPeriods, key) && value != 1) {
      problems.push_back(
          fmt::format("{} = {} is a rule over layer indices that inserted copies would break", key, value.dump()));
    } else if (one_per_layer && num_layers > 1 && !contains(kOtherLists, key)) {
      problems.push_back(fmt::format("{} has one entry per layer and its meaning is not known", key));
    }
  }
  if (!problems.empty())
    throw DataError("{}: cannot be expanded: {}. A model without these fields can.", where, fmt::join(problems, "; "));
  result["num_hidden_layers"] = num_layers + static_cast<int>(copies.size());
  return result;
}

Expansion expand_model(const std::filesystem::path& base_dir, const std::filesystem::path& out_dir,
                       std::span<const int> after, const std::optional<Importance>& importance,
                       io::OnExisting on_existing) {
  const std::filesystem::path config_path = base_dir / "config.json";
  const Json config = read_json(config_path);
  const model::ModelConfig base = model::parse_model_config(config, config_path.string());
  const auto num_layers = static_cast<int>(base.num_hidden_layers);
  const io::WeightFiles weights = model::open_weights(base, base_dir);
  model::check_weights(base, weights);
  Expansion expansion{.base = io::model_identity(io::WeightFiles::open(base_dir)),
                      .base_num_hidden_layers = num_layers,
                      .layers = place_copies(after, num_layers),
                      .importance = importance};
  if (expansion.importance) {
    // What only a choice needs is not for the manifest, nor how certain the choice of another number would be.
    Stability& stability = expansion.importance->stability;
    stability.covariance.clear();
    if (stability.num_lowest != static_cast<int>(std::set<int>(after.begin(), after.end()).size())) stability = {};
  }
  if (importance && static_cast<int>(importance->layers.size()) != num_layers)
    throw DataError("{}: the importance scores are of a model with {} layers, this one has {}; probe this model.",
                    base_dir.string(), importance->layers.size(), num_layers);
  if (importance && importance->model && importance->model != expansion.base)
    throw DataError("{}: the importance scores are of another model ({} differ); probe this model.", base_dir.string(),
                    io::differing_parts(*importance->model, *expansion.base));
  if (is_present(base_dir / kExpansionManifest))
    spdlog::warn("{}: was expanded before. Its copies count as layers of the base from here on: only new ones train.",
                 base_dir.string());
  const Json new_config = expand_config(config, expansion.layers, config_path.string());
  check_windows(base, model::parse_model_config(new_config, config_path.string()), expansion.layers,
                config_path.string());
  std::vector<std::byte> zeros;
  const std::vector<io::TensorView> tensors = expanded_tensors(weights, expansion.layers, zeros);
  io::AtomicDirectory directory(out_dir, on_existing);
  model::write_model_files(directory.path(), tensors, new_config, base_dir);
  io::write_record(directory.path() / kExpansionManifest, to_json(expansion));
  copy_training_record(base_dir, directory.path());
  directory.commit();
  return expansion;
}

void copy_training_record(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (const auto record = from / kTrainingRecord; is_present(record))
    io::write_file_atomically(to / kTrainingRecord, io::MappedFile::open(record)->bytes());
}

std::vector<at::Tensor*> output_slots(model::LayerWeights& layer) {
  std::vector<at::Tensor*> slots = {&layer.o_proj.weight, &layer.down_proj.weight};
  for (at::Tensor* bias : {&layer.o_proj.bias, &layer.down_proj.bias})
    if (bias->defined()) slots.push_back(bias);
  return slots;
}

Json to_json(const Expansion& expansion) {
  Json layers = Json::array();
  for (const ExpandedLayer& layer : expansion.layers)
    layers.push_back({{"source", layer.source}, {"index", layer.index}});
  Json json = {{"version", kManifestVersion}};
  if (expansion.base) json["base_model"] = io::to_json(*expansion.base);
  json["base_num_hidden_layers"] = expansion.base_num_hidden_layers;
  json["expanded_layers"] = layers;
  if (expansion.importance) json["importance"] = to_json(*expansion.importance);
  return json;
}

Expansion read_expansion(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / kExpansionManifest;
  if (!is_present(path)) {
    const bool is_trained = is_present(model_dir / kTrainingRecord);
    throw DataError(
        "{}: found no {}; expected a model with copies. {}", model_dir.string(), kExpansionManifest,
        is_trained ? "This one was trained by a method without any (adept_training.json); adept and "
                     "llama_pro train copies."
                   : fmt::format("Make one with `adept expand --model {} --out DIR --after ...`.", model_dir.string()));
  }
  const Json json = io::read_record(path, io::NoChecksum::kAccepted);
  Expansion expansion;
  try {
    if (const int version = json_field<int>(json, "version"); version != kManifestVersion)
      throw DataError("version is {}; this build reads version {}", version, kManifestVersion);
    if (json.contains("base_model")) expansion.base = io::model_identity_from_json(json["base_model"], "base_model.");
    expansion.base_num_hidden_layers = json_field<int>(json, "base_num_hidden_layers");
    for (const Json& layer : json_list(json, "expanded_layers")) {
      const std::string prefix = fmt::format("expanded_layers[{}].", expansion.layers.size());
      expansion.layers.push_back(
          {.source = json_field<int>(layer, "source", prefix), .index = json_field<int>(layer, "index", prefix)});
    }
  } catch (const DataError& error) {
    throw DataError("{}: not a valid expansion manifest: {}. Expand the base model again.", path.string(),
                    error.what());
  }
  if (json.contains("importance")) expansion.importance = importance_from_json(json.at("importance"), path.string());
  std::vector<int> after;
  for (const ExpandedLayer& layer : expansion.layers) after.push_back(layer.source);
  std::vector<ExpandedLayer> expected;
  try {
    expected = place_copies(after, expansion.base_num_hidden_layers);
  } catch (const ConfigError& error) {
    throw DataError("{}: {} Expand the base model again.", path.string(), error.what());
  }
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (expected[i].index != expansion.layers[i].index)
      throw DataError("{}: the copy of layer {} is said to be layer {}, expected {}. Expand the base model again.",
                      path.string(), expected[i].source, expansion.layers[i].index, expected[i].index);
  const auto depth = model::read_model_config(model_dir).num_hidden_layers;
  if (const auto said = expansion.base_num_hidden_layers + std::ssize(expansion.layers); depth != said)
    throw DataError("{}: config.json has {} layers, {} says {}. Expand the base model again.", model_dir.string(),
                    depth, kExpansionManifest, said);
  return expansion;
}

}  // namespace adept::method
