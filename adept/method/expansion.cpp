#include "adept/method/expansion.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/mapped_file.h"
#include "adept/io/record.h"
#include "adept/io/weight_files.h"
#include "adept/method/beyond/json_field.h"
#include "adept/model/config.h"
#include "adept/model/load.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "adept/model/weights.h"

namespace adept::method {
namespace {

constexpr int kManifestVersion = 1;

// Lists that do not refer to layers, even if their length is the number of layers.
constexpr std::array<std::string_view, 3> kOtherLists = {"architectures", "eos_token_id", "pad_token_id"};

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

// The bytes of the copies' residual outputs: values without effect, enough for the largest of each kind.
class NoEffect {
 public:
  NoEffect(const io::WeightFiles& weights, const std::map<std::string, model::Parameter>& outputs) {
    for (const auto& [name, p] : outputs) {
      std::int64_t& size = sizes_[kind(weights.at(name), p)];
      size = std::max(size, p.numel());
    }
  }
  // Of a tensor such as this one.
  std::span<const std::byte> bytes(const io::TensorView& like, const model::Parameter& p) {
    at::Tensor& values = values_[kind(like, p)];
    if (!values.defined())
      values = at::full({sizes_.at(kind(like, p))}, 0 - p.offset, model::to_scalar_type(like.dtype));
    return model::as_view(like.name, values).data.first(like.data.size());
  }
  // Whether these are such bytes.
  bool has(std::span<const std::byte> bytes) const {
    return std::ranges::any_of(values_, [&](const auto& v) { return v.second.const_data_ptr() == bytes.data(); });
  }

 private:
  using Kind = std::pair<DType, double>;
  static Kind kind(const io::TensorView& view, const model::Parameter& p) { return {view.dtype, p.offset}; }
  std::map<Kind, std::int64_t> sizes_;
  std::map<Kind, at::Tensor> values_;
};

// The residual outputs of all layers, by name.
std::map<std::string, model::Parameter> all_residual_outputs(const model::ModelConfig& config) {
  model::Weights slots;
  std::map<std::string, model::Parameter> outputs;
  for (model::Parameter& p : model::named_parameters(config, slots))
    if (p.role == model::Role::kResidualOutput) outputs[p.name] = std::move(p);
  return outputs;
}

// A tensor list of the expanded model; `no_effect` backs the copies' residual outputs.
std::vector<io::TensorView> expanded_tensors(const io::WeightFiles& weights, std::span<const ExpandedLayer> copies,
                                             const std::map<std::string, model::Parameter>& outputs,
                                             NoEffect& no_effect) {
  std::vector<io::TensorView> tensors;
  for (const std::string& name : weights.names()) {
    io::TensorView tensor = weights.at(name);
    tensor.name = expanded_name(name, copies);
    tensors.push_back(tensor);
    const auto split = split_layer_name(name);
    if (!split) continue;
    const std::vector<ExpandedLayer> copies_here = copies_of(split->layer, copies);
    if (const auto output = outputs.find(name); output != outputs.end() && !copies_here.empty())
      tensor.data = no_effect.bytes(tensor, output->second);
    for (const ExpandedLayer& copy : copies_here) {
      tensor.name = model::layer_parameter_name(copy.index, split->rest);
      tensors.push_back(tensor);
    }
  }
  return tensors;
}

// Catches anything that the layer fields miss, such as a default that depends on the depth (Qwen's max_window_layers):
// each layer must compute the same as before.
void check_layers(const model::ModelConfig& base, const model::ModelConfig& expanded,
                  std::span<const ExpandedLayer> copies, const std::string& where) {
  for (int l = 0; l < static_cast<int>(base.num_hidden_layers); ++l) {
    std::vector<int> indices = {expanded_index(l, copies)};
    for (const ExpandedLayer& copy : copies_of(l, copies)) indices.push_back(copy.index);
    for (const int index : indices) {
      const auto difference =
          model::difference(base.layers[static_cast<std::size_t>(l)], expanded.layers[static_cast<std::size_t>(index)]);
      if (difference)
        throw DataError(
            "{}: cannot be expanded: layer {} {}, as layer {} of the deeper model it would {}. Write layer_types or "
            "max_window_layers, which have defaults, into the file.",
            where, l, difference->does, index, difference->would);
    }
  }
}

}  // namespace

void check_layer_index(std::string_view what, std::int64_t layer, std::int64_t num_layers, std::string_view model) {
  if (layer < 0 || layer >= num_layers)
    throw ConfigError("{}: found {}; expected indices from 0 to {} ({} has {} layers).", what, layer, num_layers - 1,
                      model, num_layers);
}

std::vector<ExpandedLayer> place_copies(std::span<const int> after, int base_num_hidden_layers) {
  if (after.empty()) throw ConfigError("layers to expand: found none; expected at least one.");
  std::vector<ExpandedLayer> copies;
  for (const int source : after) {
    check_layer_index("layers to expand", source, base_num_hidden_layers);
    if (!copies.empty() && source < copies.back().source)
      throw ConfigError("layers to expand: found {} after {}; expected ascending indices.", source,
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

Json expand_config(const Json& config, std::span<const model::LayerField> fields, std::span<const ExpandedLayer> copies,
                   const std::string& where) {
  const int num_layers = config.at("num_hidden_layers").get<int>();
  Json result = config;
  std::vector<std::string> problems;
  for (const auto& [key, value] : config.items()) {
    const bool one_per_layer = value.is_array() && static_cast<int>(value.size()) == num_layers;
    if (value.is_null()) continue;
    const auto field = std::find_if(fields.begin(), fields.end(), [&](const auto& f) { return f.key == key; });
    if (field == fields.end()) {
      if (one_per_layer && num_layers > 1 && std::ranges::count(kOtherLists, key) == 0)
        problems.push_back(fmt::format("{} has one entry per layer, but its meaning is unknown", key));
      continue;
    }
    switch (field->kind) {
      case model::LayerFieldKind::kOnePerLayer:
        if (one_per_layer)
          result[key] = splice_list(value, copies);
        else
          problems.push_back(
              fmt::format("{} has {} entries; expected num_hidden_layers = {}", key, value.size(), num_layers));
        break;
      case model::LayerFieldKind::kThreshold:
        result[key] = expanded_index(value.get<int>(), copies);
        break;
    }
  }
  if (!problems.empty())
    throw DataError("{}: cannot be expanded: {}. Expected a model without these fields.", where,
                    fmt::join(problems, "; "));
  result["num_hidden_layers"] = num_layers + static_cast<int>(copies.size());
  return result;
}

Json expand_config(const model::ModelConfig& base, std::span<const ExpandedLayer> copies, const std::string& where) {
  const model::Architecture& architecture = *model::find_architecture(base.model_type);
  Json config = base.source;
  if (architecture.list_layers != nullptr) architecture.list_layers(base, config);
  const Json expanded = expand_config(config, architecture.layer_fields, copies, where);
  check_layers(base, model::parse_model_config(expanded, where), copies, where);
  return expanded;
}

Expansion expand_model(const std::filesystem::path& base_dir, const std::filesystem::path& out_dir,
                       std::span<const int> after, const std::optional<Importance>& importance,
                       io::OnExisting on_existing) {
  const std::filesystem::path config_path = base_dir / "config.json";
  const model::ModelConfig base = model::parse_model_config(read_json(config_path), config_path.string());
  const auto num_layers = static_cast<int>(base.num_hidden_layers);
  const io::WeightFiles weights = model::open_weights(base, base_dir);
  model::check_weights(base, weights);
  Expansion expansion{.base = io::model_identity(io::WeightFiles::open(base_dir)),
                      .base_num_hidden_layers = num_layers,
                      .layers = place_copies(after, num_layers),
                      .importance = importance};
  if (expansion.importance) {
    // The manifest omits data that only the selection needs, and the confidence for other numbers of layers.
    Stability& stability = expansion.importance->stability;
    stability.covariance.clear();
    if (stability.num_lowest != static_cast<int>(std::set<int>(after.begin(), after.end()).size())) stability = {};
  }
  if (importance && static_cast<int>(importance->layers.size()) != num_layers)
    throw DataError(
        "{}: the importance scores belong to a model with {} layers, but this one has {}. Run adept probe on this "
        "model.",
        base_dir.string(), importance->layers.size(), num_layers);
  if (importance && importance->model && importance->model != expansion.base)
    throw DataError("{}: the importance scores belong to a different model ({} differ). Run adept probe on this model.",
                    base_dir.string(), io::differing_parts(*importance->model, *expansion.base));
  if (is_present(base_dir / kExpansionManifest))
    log_warning("{}: is already expanded. Its copies now count as layers of the base; only new copies train.",
                base_dir.string());
  const Json new_config = expand_config(base, expansion.layers, config_path.string());
  const std::map<std::string, model::Parameter> outputs = all_residual_outputs(base);
  NoEffect no_effect(weights, outputs);
  const std::vector<io::TensorView> tensors = expanded_tensors(weights, expansion.layers, outputs, no_effect);
  std::span<const std::byte> written;  // of a file: one tensor is in memory at a time
  const auto read = [&](const io::TensorView& tensor) {
    io::release_pages(written);
    written = no_effect.has(tensor.data) ? std::span<const std::byte>() : tensor.data;
    return tensor.data;
  };
  io::AtomicDirectory directory(out_dir, on_existing);
  model::write_model_files(directory.path(), tensors, new_config, base_dir, read);
  io::write_record(directory.path() / kExpansionManifest, to_json(expansion));
  copy_training_record(base_dir, directory.path());
  directory.commit();
  return expansion;
}

void copy_training_record(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (const auto record = from / kTrainingRecord; is_present(record))
    io::write_file_atomically(to / kTrainingRecord, io::MappedFile::open(record)->bytes());
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
    throw DataError("{}: found no {}; expected a model with copies. {}", model_dir.string(), kExpansionManifest,
                    is_trained ? "This model was trained by a method without copies (adept_training.json); adept and "
                                 "llama_pro train copies."
                               : fmt::format("Create one with `adept expand --model {} --out DIR --after ...`.",
                                             model_dir.string()));
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
      throw DataError("{}: the copy of layer {} has index {}; expected {}. Expand the base model again.", path.string(),
                      expected[i].source, expansion.layers[i].index, expected[i].index);
  const auto depth = model::read_model_config(model_dir).num_hidden_layers;
  if (const auto said = expansion.base_num_hidden_layers + std::ssize(expansion.layers); depth != said)
    throw DataError("{}: config.json has {} layers, but {} has {}. Expand the base model again.", model_dir.string(),
                    depth, kExpansionManifest, said);
  return expansion;
}

}  // namespace adept::method
