#include "adept/model/gguf/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

using io::GgufFile;
using io::quote;

// Keys that change nothing that is computed here, whatever they say.
constexpr std::string_view kIgnored[] = {
    "rope.scaling.finetuned",                // a note on how the model was made
    "rope.scaling.original_context_length",  // of yarn, which is refused, and of longrope, which reads it
    "pooling_type",                          // of an embedding model's output, after the last hidden state
};
// Keys with the values that change nothing.
const std::pair<std::string_view, std::vector<double>> kNeutral[] = {
    {"use_parallel_residual", {0}},  {"expert_count", {0}},
    {"expert_used_count", {0}},      {"expert_shared_count", {0}},
    {"nextn_predict_layers", {0}},   {"logit_scale", {0, 1}},  // 0 is llama.cpp's "not set" for scales
    {"residual_scale", {0, 1}},      {"embedding_scale", {0, 1}},
    {"attn_logit_softcapping", {0}}, {"final_logit_softcapping", {0}},
    {"attention.causal", {1}},       {"attention.max_alibi_bias", {0}},
    {"attention.clamp_kqv", {0}},    {"rope.scaling.attn_factor", {1}},
};

void check_keys(GgufReader& reader, const GgufModel& model) {
  for (const auto& [key, neutral] : kNeutral) reader.require(key, neutral);
  reader.require("attention.scale", {0, 1 / std::sqrt(static_cast<double>(model.head_dim))});
  for (const std::string_view key : kIgnored) reader.ignore(key);
  reader.refuse_unknown();
}

void check_general_keys(const GgufFile& file, std::vector<std::string>& problems) {
  if (const auto type = file.string("general.type"); type && *type != "model")
    problems.push_back(fmt::format("general.type is {}; expected \"model\"", quote(*type)));
  if (const auto count = file.integer("split.count"); count && *count > 1)
    problems.push_back(
        fmt::format("is one of {} parts (split.count); join them first with llama-gguf-split --merge", *count));
  if (const auto version = file.integer("general.quantization_version"); version && *version != 2)
    problems.push_back(fmt::format(
        "general.quantization_version is {}; this build knows 2, whose blocks have another layout", *version));
}

void read_dimensions(GgufReader& reader, GgufModel& model) {
  model.num_layers = reader.integer("block_count", {}, 1);
  model.context_length = reader.integer("context_length", {}, 1);
  model.hidden_size = reader.integer("embedding_length", {}, 1);
  model.intermediate_size = reader.integer("feed_forward_length", {}, 1);
  model.num_heads = reader.integer("attention.head_count", {}, 1);
  model.num_kv_heads = reader.integer("attention.head_count_kv", model.num_heads, 1);
  if (!reader.has("attention.key_length") && model.hidden_size % model.num_heads != 0)
    reader.problem("{} {} is not a multiple of {} {}, and there is no {}", reader.full("embedding_length"),
                   model.hidden_size, reader.full("attention.head_count"), model.num_heads,
                   reader.full("attention.key_length"));
  model.head_dim =
      reader.integer("attention.key_length", std::max<std::int64_t>(model.hidden_size / model.num_heads, 1), 1);
  if (const auto value_length = reader.integer("attention.value_length", model.head_dim, 1);
      value_length != model.head_dim)
    reader.problem("{} is {}; only that of the keys, {}, is implemented", quote(reader.full("attention.value_length")),
                   value_length, model.head_dim);
  if (model.head_dim % 2 != 0) reader.problem("the size of a head is {}; expected an even number", model.head_dim);
  model.rotary_dim = reader.integer("rope.dimension_count", model.head_dim, 1);
  if (model.num_heads % model.num_kv_heads != 0)
    reader.problem("{} query heads cannot be shared by {} key-value heads", model.num_heads, model.num_kv_heads);
  if (model.num_layers > std::ssize(reader.file().tensors())) {
    reader.problem("{} is {}, but the file has only {} tensors", quote(reader.full("block_count")), model.num_layers,
                   reader.file().tensors().size());
    model.num_layers = 1;  // no further loop over layers that cannot be there
  }
}

void read_vocabulary_size(GgufReader& reader, GgufModel& model) {
  const io::GgufTensor* embedding = reader.file().find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    return embedding
               ? reader.problem("tensor \"token_embd.weight\" is {}; expected two dimensions", describe(*embedding))
               : reader.problem("has no tensor \"token_embd.weight\"");
  model.vocab_size = embedding->shape[0];
  if (const auto size = reader.integer("vocab_size", model.vocab_size, 1); size != model.vocab_size)
    reader.problem("{} is {}, but \"token_embd.weight\" has {} rows", quote(reader.full("vocab_size")), size,
                   model.vocab_size);
}

// rope_scaling of config.json: null, linear or llama3.
Json read_rope_scaling(GgufReader& reader, const GgufModel& model, double rope_theta) {
  const GgufFile& file = reader.file();
  const auto type = reader.text("rope.scaling.type");
  if (type && *type != "none" && *type != "linear") {
    reader.problem("{} is {}; this build knows none, linear, and llama3 (the tensor \"rope_freqs.weight\")",
                   quote(reader.full("rope.scaling.type")), quote(*type));
    return nullptr;
  }
  // Without a type llama.cpp means linear; a factor of 0 is its "not set".
  double factor = 1;
  for (const std::string_view key : {"rope.scale_linear", "rope.scaling.factor"})
    if (reader.has(key) && *file.number(reader.full(key)) != 0) factor = reader.positive_number(key, {});
  if (type == "none") factor = 1;

  const io::GgufTensor* tensor = file.find("rope_freqs.weight");
  if (tensor && (tensor->shape != std::vector<std::int64_t>{model.head_dim / 2})) {
    reader.problem("\"rope_freqs.weight\" is {}; expected [{}], half the size of a head", describe(*tensor),
                   model.head_dim / 2);
    return nullptr;
  }
  if (tensor) {
    std::vector<float> factors(static_cast<std::size_t>(tensor->num_elements()));
    io::dequantize(*tensor, factors);
    Json scaling = recover_llama3_scaling(factors, rope_theta, reader.problems());
    if (!scaling.is_null() && factor != 1)
      reader.problem("has both \"rope_freqs.weight\" and a linear rotary scaling of {}; only one can be expressed",
                     factor);
    if (!scaling.is_null()) return scaling;
  }
  if (factor == 1) return nullptr;
  return Json{{"rope_type", "linear"}, {"factor", factor}};
}

// For architectures whose files do not say which layers use it.
void refuse_lost_window(GgufReader& reader, const GgufModel& model, const Json& config) {
  if (!model.has_window() || config.contains("sliding_window")) return;
  reader.problem(
      "{} is {}, shorter than the context of {}: the file does not say which layers use it, so "
      "config.json cannot express it",
      quote(reader.full("attention.sliding_window")), model.sliding_window, model.context_length);
}

void refuse_lost_share(GgufReader& reader, const GgufModel& model, const Json& config) {
  if (model.rotary_dim == model.head_dim || config.contains("partial_rotary_factor")) return;
  reader.problem("{} is {}: rotating only a part of a head, {}, changes the mathematics and is not implemented",
                 quote(reader.full("rope.dimension_count")), model.rotary_dim, model.head_dim);
}

void write_token_ids(const GgufFile& file, const GgufModel& model, Json& config, std::vector<std::string>& problems) {
  constexpr std::pair<std::string_view, std::string_view> kIds[] = {
      {"tokenizer.ggml.bos_token_id", "bos_token_id"},
      {"tokenizer.ggml.eos_token_id", "eos_token_id"},
      {"tokenizer.ggml.padding_token_id", "pad_token_id"},
  };
  for (const auto& [key, name] : kIds) {
    auto id = file.integer(key);
    if (id && (*id < 0 || (model.vocab_size > 0 && *id >= model.vocab_size))) {
      if (name != "pad_token_id")
        problems.push_back(fmt::format("{} is {}; expected 0 to {}", key, *id, model.vocab_size - 1));
      id.reset();
    }
    config[std::string(name)] = id ? Json(*id) : Json();  // null: otherwise transformers takes the class's defaults
  }
}

// What all architectures have.
Json common_config(const GgufModel& model, const Architecture& architecture, const io::GgufFile& file,
                   double rope_theta, const Json& rope_scaling, double rms_norm_eps) {
  return {{"architectures", Json::array({std::string(architecture.class_name)})},
          {"model_type", model.model_type},
          {"attention_dropout", 0.0},
          {"head_dim", model.head_dim},
          {"hidden_act", "silu"},
          {"hidden_size", model.hidden_size},
          {"intermediate_size", model.intermediate_size},
          {"max_position_embeddings", model.context_length},
          {"num_attention_heads", model.num_heads},
          {"num_hidden_layers", model.num_layers},
          {"num_key_value_heads", model.num_kv_heads},
          {"rms_norm_eps", rms_norm_eps},
          {"rope_scaling", rope_scaling},
          {"rope_theta", rope_theta},
          {"tie_word_embeddings", file.find("output.weight") == nullptr},
          {"use_cache", true},
          {"vocab_size", model.vocab_size}};
}

const Architecture& read_architecture(const io::GgufFile& file) {
  std::vector<std::string_view> known;
  const auto name = file.string("general.architecture");
  for (const Architecture* architecture : known_architectures()) {
    if (architecture->gguf_name.empty()) continue;
    known.push_back(architecture->gguf_name);
    if (name == architecture->gguf_name) return *architecture;
  }
  if (!name)
    throw DataError("{}: has no \"general.architecture\"; expected one of {}.", file.where(), fmt::join(known, ", "));
  throw DataError("{}: general.architecture is {}; this build knows {}.", file.where(), quote(*name),
                  fmt::join(known, ", "));
}

}  // namespace

GgufModel read_gguf_model(const io::GgufFile& file) {
  const Architecture& architecture = read_architecture(file);
  std::vector<std::string> problems;
  GgufModel model;
  model.model_type = architecture.model_type;
  GgufReader reader(file, architecture.gguf_name, problems);
  check_general_keys(file, problems);
  read_dimensions(reader, model);
  read_vocabulary_size(reader, model);
  const double rope_theta = reader.positive_number("rope.freq_base", 10000.0);  // llama.cpp's default
  const Json rope_scaling = read_rope_scaling(reader, model, rope_theta);
  const double eps = reader.positive_number("attention.layer_norm_rms_epsilon", {});
  model.sliding_window = reader.integer("attention.sliding_window", 0, 0);
  model.config = common_config(model, architecture, file, rope_theta, rope_scaling, eps);
  architecture.read_gguf(reader, model, model.config);
  refuse_lost_window(reader, model, model.config);
  refuse_lost_share(reader, model, model.config);
  check_keys(reader, model);
  model.generation_config = Json::object();
  write_token_ids(file, model, model.config, problems);
  for (const char* name : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (!model.config[name].is_null()) model.generation_config[name] = model.config[name];
  throw_gguf_problems(file.where(), problems);
  model.parsed = parse_model_config(model.config, file.where());
  return model;
}

void throw_gguf_problems(const std::string& where, const std::vector<std::string>& problems) {
  constexpr std::size_t kMost = 20;
  if (problems.empty()) return;
  if (problems.size() == 1) throw DataError("{}: {}.", where, problems.front());
  std::string list;
  for (std::size_t i = 0; i < std::min(problems.size(), kMost); ++i) list += "\n  " + problems[i];
  if (problems.size() > kMost) list += fmt::format("\n  and {} more", problems.size() - kMost);
  throw DataError("{}: {} problems:{}", where, problems.size(), list);
}

}  // namespace adept::model
