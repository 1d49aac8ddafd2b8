#include "adept/train/methods.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "adept/io/companion_files.h"
#include "adept/method/beyond/unit_rate_options.h"
#include "adept/model/expand_vocabulary.h"
#include "adept/model/torch_tensors.h"

namespace adept::train {
namespace {

using Choose = std::function<bool(const model::Parameter&)>;

std::vector<TrainedTensor> tensors_of_model(model::Decoder& decoder, const InitialValues& values,
                                            const Choose& choose) {
  std::vector<TrainedTensor> tensors;
  for (const model::Parameter& p : model::named_parameters(decoder.config(), decoder.weights()))
    if (choose(p))
      tensors.push_back({.name = p.name, .layer = p.layer, .slot = p.tensor, .initial = [=] { return values(p, {}); }});
  return tensors;
}

// Initialized as in peft: kaiming_uniform with a = sqrt(5), which is uniform in +-1/sqrt(columns).
at::Tensor uniform_start(std::int64_t rows, std::int64_t columns, std::uint64_t seed, std::uint64_t& counter) {
  at::Tensor tensor = at::empty({rows, columns}, at::kFloat);
  const double bound = 1.0 / std::sqrt(static_cast<double>(columns));
  auto* values = tensor.data_ptr<float>();
  for (std::int64_t i = 0; i < tensor.numel(); ++i)
    values[i] = static_cast<float>(bound * (2 * random_uniform(seed, RandomStream::kLora, counter++) - 1));
  return tensor;
}

bool is_table(const model::Parameter& p) { return p.role == model::Role::kEmbedding || p.role == model::Role::kHead; }

std::vector<model::NewToken> new_tokens(const std::filesystem::path& model_dir, std::int64_t vocab_size) {
  std::vector<model::NewToken> tokens = model::added_tokens_of(model_dir, vocab_size);
  if (tokens.empty())
    throw ConfigError(
        "train.train_new_embeddings: found true, but {} has no new tokens ({}); expected a model of adept "
        "expand-vocab, or false.",
        model_dir.string(), io::kAddedTokensRecord);
  return tokens;
}

// The rows of new tokens in the embedding and in a head that is not tied to it.
std::vector<TrainedTensor> rows_of_new_tokens(model::Decoder& decoder, const std::filesystem::path& model_dir,
                                              const InitialValues& values) {
  std::vector<std::int64_t> ids;
  for (const model::NewToken& token : new_tokens(model_dir, decoder.config().vocab_size)) ids.push_back(token.id);
  const at::Tensor rows = at::tensor(ids, at::kLong);
  std::vector<TrainedTensor> tensors;
  for (const model::Parameter& p : model::named_parameters(decoder.config(), decoder.weights())) {
    if (!is_table(p)) continue;
    model::Weights& weights = decoder.weights();
    nn::Embedding& table = p.role == model::Role::kHead ? weights.lm_head : weights.embed_tokens;
    table.trained.ids = {rows, decoder.device()};
    tensors.push_back({.name = p.name + std::string(kNewTokenRows), .slot = &table.trained.values, .initial = [=] {
                         return values(p, rows);
                       }});
  }
  return tensors;
}

bool is_of_copy(const method::Expansion& expansion, const model::Parameter& p) {
  return std::ranges::any_of(expansion.layers,
                             [&](const method::ExpandedLayer& copy) { return copy.index == p.layer; });
}

// The tensors of the method alone.
std::vector<TrainedTensor> tensors_of_method(const config::RunConfig& config, model::Decoder& decoder,
                                             const std::optional<method::Expansion>& expansion,
                                             const InitialValues& values) {
  if (config.method == Method::kLora) return add_adapters(config, decoder);
  return tensors_of_model(decoder, values,
                          [&](const auto& p) { return trains(config, decoder.config(), expansion, p); });
}

method::Unit whole_unit(const optim::Parameter& p) {
  return {.name = p.name,
          .parameter = p.name,
          .dim = 0,
          .begin = 0,
          .end = p.shape()[0],
          .elements = p.numel(),
          .is_matrix = p.shape().size() > 1};
}

// All possible names of the units of the method; the copied layers may not be known yet.
std::vector<std::string> possible_units(const config::RunConfig& config, const model::ModelConfig& model) {
  std::vector<std::string> names;
  if (config.method == Method::kLora) {
    const auto& targets = config.lora.target_modules;
    std::vector<model::Layer> layers = model.layers;
    for (const model::NamedProjection& l : model::named_projections(layers))
      if (targets.empty() || std::find(targets.begin(), targets.end(), l.module_name) != targets.end())
        for (const char* matrix : {".lora_A.weight", ".lora_B.weight"}) names.push_back(l.name + matrix);
    return names;
  }
  model::Weights slots;
  if (!config.expands()) {
    const std::int64_t first =
        config.method == Method::kTopKLayers ? model.num_hidden_layers - config.top_k_layers.num_layers : -1;
    for (const model::Parameter& p : model::named_parameters(model, slots))
      if (p.layer >= first) names.push_back(p.name);
    return names;
  }
  // The index of a copy of layer l depends on the number of copies of the layers before it; `after` may name a layer
  // more than once.
  slots.layers = model.layers;
  const std::int64_t most_copies =
      std::max<std::int64_t>(model.num_hidden_layers * config.expand.copies, std::ssize(config.expand.after));
  for (std::int64_t index = 1; index < model.num_hidden_layers + most_copies; ++index)
    for (model::Parameter& p : model::layer_parameters(slots, std::min(index, model.num_hidden_layers) - 1)) {
      p.name = model::layer_parameter_name(index, p.local_name);
      for (const method::Unit& unit : method::units_of(p, config.unit_lr)) names.push_back(unit.name);
    }
  return names;
}

void check_unit_names(const config::RunConfig& config, const model::ModelConfig& model) {
  const auto& factors = config.unit_lr.factors;
  if (factors.empty()) return;
  method::UnitValues weights;
  for (const std::string& name : possible_units(config, model)) weights[name] = 1;
  model::Weights slots;
  if (config.trains_new_tokens())
    for (const model::Parameter& p : model::named_parameters(model, slots))
      if (is_table(p)) weights[p.name + std::string(kNewTokenRows)] = 1;
  method::apply_factors(factors, weights);
}

void check_lora(const LoraOptions& lora, const model::ModelConfig& model, const std::string& where) {
  std::vector<std::string_view> known;
  std::int64_t narrowest = model.hidden_size;
  for (const model::Projection* p : model::projections_of(model.layers.front())) {
    known.push_back(p->module_name());
    const auto& targets = lora.target_modules;
    if (targets.empty() || std::find(targets.begin(), targets.end(), p->module_name()) != targets.end())
      narrowest = std::min({narrowest, p->rows, p->columns});
  }
  for (std::size_t i = 0; i < lora.target_modules.size(); ++i)
    if (std::find(known.begin(), known.end(), lora.target_modules[i]) == known.end())
      throw ConfigError("lora.target_modules.{}: found \"{}\"; expected one of {}, the projections of {}.", i,
                        lora.target_modules[i], fmt::join(known, ", "), where);
  if (lora.rank > narrowest)
    throw ConfigError("lora.rank: found {}; expected at most {}, the smallest dimension of a target projection of {}.",
                      lora.rank, narrowest, where);
}

}  // namespace

std::vector<TrainedTensor> add_adapters(const config::RunConfig& config, model::Decoder& decoder) {
  const LoraOptions& lora = config.lora;
  const std::set<std::string> targets(lora.target_modules.begin(), lora.target_modules.end());
  std::uint64_t counter = 0;
  std::vector<TrainedTensor> tensors;
  for (const model::NamedProjection& l : model::named_projections(decoder.weights().layers)) {
    if (!targets.empty() && !targets.contains(l.module_name)) continue;
    const std::int64_t rows = l.projection->rows, columns = l.projection->columns;
    nn::LoraAdapter& adapter = l.projection->linear.adapter;
    adapter.scale = lora.alpha.value() / static_cast<double>(lora.rank);
    adapter.dropout = lora.dropout;
    const auto seed = static_cast<std::uint64_t>(config.seed);
    const at::Tensor a = uniform_start(lora.rank, columns, seed, counter).to(decoder.device());
    const at::Tensor b = at::zeros({rows, lora.rank}, a.options());
    const auto initial = [](const at::Tensor& value) { return [=] { return value; }; };
    tensors.push_back({.name = l.name + ".lora_A.weight", .layer = l.layer, .slot = &adapter.a, .initial = initial(a)});
    tensors.push_back({.name = l.name + ".lora_B.weight", .layer = l.layer, .slot = &adapter.b, .initial = initial(b)});
  }
  return tensors;
}

InitialValues values_of(const io::WeightFiles& files, at::Device device) {
  return [&files, device](const model::Parameter& p, const at::Tensor& rows) {
    const at::Tensor stored = model::as_tensor(files.at(p.name), files.owner(p.name));
    const at::Tensor wanted = rows.defined() ? stored.index_select(0, rows) : stored;
    const at::Tensor values = wanted.to(at::kFloat, false, /*copy=*/!rows.defined()).to(device);
    files.release_pages(p.name);
    return values;
  };
}

bool trains(const config::RunConfig& config, const model::ModelConfig& model,
            const std::optional<method::Expansion>& expansion, const model::Parameter& parameter) {
  switch (config.method) {
    case Method::kAdept:
    case Method::kLlamaPro:
      return is_of_copy(*expansion, parameter);
    case Method::kFull:
    case Method::kReplay:
      return true;
    case Method::kLora:
      return false;
    case Method::kTopKLayers:
      return parameter.layer >= model.num_hidden_layers - config.top_k_layers.num_layers;
  }
  throw InternalError("unknown method");
}

std::vector<TrainedTensor> expanded_tensors(model::Decoder& decoder, const method::Expansion& expansion,
                                            const io::WeightFiles& files) {
  return tensors_of_model(decoder, values_of(files, decoder.device()),
                          [&](const auto& p) { return is_of_copy(expansion, p); });
}

std::vector<TrainedTensor> trained_tensors(const config::RunConfig& config, model::Decoder& decoder,
                                           const std::optional<method::Expansion>& expansion,
                                           const std::filesystem::path& model_dir, const InitialValues& values) {
  std::vector<TrainedTensor> tensors = tensors_of_method(config, decoder, expansion, values);
  if (config.trains_new_tokens())
    for (TrainedTensor& rows : rows_of_new_tokens(decoder, model_dir, values)) tensors.push_back(std::move(rows));
  return tensors;
}

std::vector<TrainedTensor> trained_tensors(const config::RunConfig& config, model::Decoder& decoder,
                                           const std::optional<method::Expansion>& expansion,
                                           const io::WeightFiles& files) {
  return trained_tensors(config, decoder, expansion, files.directory(), values_of(files, decoder.device()));
}

std::vector<method::Unit> training_units(const config::RunConfig& c, const std::optional<method::Expansion>& expansion,
                                         const model::Decoder& decoder, const Trainable& trainable) {
  std::vector<method::Unit> units;
  if (expansion) units = method::make_units(*expansion, decoder, c.unit_lr);
  for (const optim::Parameter& p : trainable.parameters()) {
    const bool is_new_row = p.name.ends_with(kNewTokenRows);
    if (expansion && !is_new_row) continue;
    units.push_back(whole_unit(p));
    units.back().is_measured = !is_new_row;
  }
  return units;
}

void check_method(const config::RunConfig& config, const model::ModelConfig& model,
                  const std::filesystem::path& model_dir) {
  const std::string where = model_dir.string();
  if (config.method == Method::kTopKLayers && config.top_k_layers.num_layers > model.num_hidden_layers)
    throw ConfigError("top_k_layers.num_layers: found {}; expected at most {}, the number of layers of {}.",
                      config.top_k_layers.num_layers, model.num_hidden_layers, where);
  if (config.method == Method::kLora) check_lora(config.lora, model, where);
  if (config.expands() && config.unit_lr.ffn_block_size > model.intermediate_size)
    throw ConfigError("unit_lr.ffn_block_size: found {}; expected at most {}, the intermediate_size of {}.",
                      config.unit_lr.ffn_block_size, model.intermediate_size, where);
  if (config.trains_new_tokens()) new_tokens(model_dir, model.vocab_size);
  check_unit_names(config, model);
}

}  // namespace adept::train
