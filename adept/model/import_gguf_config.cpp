#include "adept/model/import_gguf_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <optional>

#include "adept/core/error.h"
#include "adept/io/text_quote.h"

namespace adept::model {
namespace {

using io::GgufFile;
using io::GgufValueType;
using io::quote;

constexpr std::int64_t kLargest = std::numeric_limits<std::int32_t>::max();
constexpr std::string_view kArchitectures[] = {"llama", "mistral", "qwen2", "qwen3"};

// A metadata value for messages.
std::string brief(const GgufFile& file, const std::string& key) {
  const io::GgufValue& value = *file.value(key);
  if (value.type == GgufValueType::kArray) return fmt::format("an array of {}", value.count);
  if (value.type == GgufValueType::kString) return quote(*file.string(key));
  if (value.type == GgufValueType::kBool) return *file.boolean(key) ? "true" : "false";
  if (value.type == GgufValueType::kFloat32 || value.type == GgufValueType::kFloat64)
    return fmt::format("{}", *file.number(key));
  return fmt::format("{}", *file.integer(key));
}

// Reads the keys below "<architecture>." and collects what is wrong with them.
class KeyReader {
 public:
  KeyReader(const GgufFile& file, std::string prefix, std::vector<std::string>& problems)
      : file_(file), prefix_(std::move(prefix) + "."), problems_(problems) {}

  std::string full(std::string_view key) const { return prefix_ + std::string(key); }
  bool has(std::string_view key) const { return file_.value(full(key)) != nullptr; }

  // One integer for all layers; an array must repeat it. Missing without a fallback is a problem. `low` on a problem.
  std::int64_t integer(std::string_view key, std::optional<std::int64_t> fallback, std::int64_t low) {
    const auto values = file_.integers(full(key));
    if (!values && fallback) return *fallback;
    if (!values) return problem(low, "has no {}, an integer", quote(full(key)));
    if (values->empty()) return problem(low, "{} is an empty array; expected an integer", quote(full(key)));
    if (std::ranges::any_of(*values, [&](std::int64_t value) { return value != values->front(); }))
      return problem(low, "{} differs between the layers; only one value for all of them can be expressed",
                     quote(full(key)));
    if (values->front() < low || values->front() > kLargest)
      return problem(low, "{} is {}; expected {} to {}", quote(full(key)), values->front(), low, kLargest);
    return values->front();
  }

  double positive_number(std::string_view key, std::optional<double> fallback) {
    const auto value = file_.number(full(key));
    if (!value && fallback) return *fallback;
    if (!value) return problem(1.0, "has no {}, a number", quote(full(key)));
    if (!(*value > 0) || !std::isfinite(*value))
      return problem(1.0, "{} is {}; expected a number above 0", quote(full(key)), *value);
    return *value;
  }

  // Changes the mathematics unless it is one of `neutral`.
  void require(std::string_view key, const std::vector<double>& neutral) {
    const io::GgufValue* found = file_.value(full(key));
    if (!found) return;
    const double value = found->type == GgufValueType::kBool ? *file_.boolean(full(key)) : *file_.number(full(key));
    const auto is_value = [&](double allowed) { return std::abs(value - allowed) <= 1e-6 * std::abs(allowed); };
    if (!std::ranges::any_of(neutral, is_value)) refuse(key);
  }

  void refuse(std::string_view key) {
    problem(0, "{} is {}: this changes the mathematics and is not implemented", quote(full(key)),
            brief(file_, full(key)));
  }

  template <typename Result, typename... Args>
  Result problem(Result result, fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format(format, std::forward<Args>(args)...));
    return result;
  }

  const GgufFile& file() const { return file_; }

 private:
  const GgufFile& file_;
  std::string prefix_;
  std::vector<std::string>& problems_;
};

// Keys that change nothing that is computed here, whatever they say.
constexpr std::string_view kIgnored[] = {
    "rope.scaling.finetuned",                // a note on how the model was made
    "rope.scaling.original_context_length",  // used by yarn and longrope only, which are refused
    "pooling_type",                          // of an embedding model's output, after the last hidden state
};
// Keys that read_gguf_model and its parts look at.
constexpr std::string_view kUnderstood[] = {
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "vocab_size",
    "tensor_data_layout",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scale_linear",
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

void check_keys(KeyReader& reader, const GgufModel& model) {
  for (const auto& [key, neutral] : kNeutral) reader.require(key, neutral);
  reader.require("attention.scale", {0, 1 / std::sqrt(static_cast<double>(model.head_dim))});
  const std::string prefix = model.model_type + ".";
  for (const std::string& key : reader.file().keys()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(prefix.size());
    const bool known = name == "attention.scale" || std::ranges::count(kIgnored, name) != 0 ||
                       std::ranges::count(kUnderstood, name) != 0 ||
                       std::ranges::any_of(kNeutral, [&](const auto& rule) { return rule.first == name; });
    if (!known)
      reader.problem(0, "{} is {}: this key is not known here and may change the mathematics", quote(key),
                     brief(reader.file(), key));
  }
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

void read_dimensions(KeyReader& reader, GgufModel& model) {
  model.num_layers = reader.integer("block_count", {}, 1);
  model.context_length = reader.integer("context_length", {}, 1);
  model.hidden_size = reader.integer("embedding_length", {}, 1);
  model.intermediate_size = reader.integer("feed_forward_length", {}, 1);
  model.num_heads = reader.integer("attention.head_count", {}, 1);
  model.num_kv_heads = reader.integer("attention.head_count_kv", model.num_heads, 1);
  if (!reader.has("attention.key_length") && model.hidden_size % model.num_heads != 0)
    reader.problem(0, "{} {} is not a multiple of {} {}, and there is no {}", reader.full("embedding_length"),
                   model.hidden_size, reader.full("attention.head_count"), model.num_heads,
                   reader.full("attention.key_length"));
  model.head_dim =
      reader.integer("attention.key_length", std::max<std::int64_t>(model.hidden_size / model.num_heads, 1), 1);
  if (const auto value_length = reader.integer("attention.value_length", model.head_dim, 1);
      value_length != model.head_dim)
    reader.problem(0, "{} is {}; only that of the keys, {}, is implemented",
                   quote(reader.full("attention.value_length")), value_length, model.head_dim);
  if (model.head_dim % 2 != 0) reader.problem(0, "the size of a head is {}; expected an even number", model.head_dim);
  if (const auto rotated = reader.integer("rope.dimension_count", model.head_dim, 1); rotated != model.head_dim)
    reader.problem(0, "{} is {}: rotating only a part of a head, {}, changes the mathematics and is not implemented",
                   quote(reader.full("rope.dimension_count")), rotated, model.head_dim);
  if (model.num_heads % model.num_kv_heads != 0)
    reader.problem(0, "{} query heads cannot be shared by {} key-value heads", model.num_heads, model.num_kv_heads);
  if (model.num_layers > std::ssize(reader.file().tensors())) {
    reader.problem(0, "{} is {}, but the file has only {} tensors", quote(reader.full("block_count")), model.num_layers,
                   reader.file().tensors().size());
    model.num_layers = 1;  // no further loop over layers that cannot be there
  }
}

void read_vocabulary_size(KeyReader& reader, GgufModel& model) {
  const io::GgufTensor* embedding = reader.file().find("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2) return;  // the tensors' own check reports it
  model.vocab_size = embedding->shape[0];
  if (const auto size = reader.integer("vocab_size", model.vocab_size, 1); size != model.vocab_size)
    reader.problem(0, "{} is {}, but \"token_embd.weight\" has {} rows", quote(reader.full("vocab_size")), size,
                   model.vocab_size);
}

// Which optional tensors there are, judged by the first layer; the tensors' own check compares all layers.
void read_structure(KeyReader& reader, GgufModel& model) {
  const GgufFile& file = reader.file();
  const auto has = [&](std::string_view name) { return file.find(fmt::format("blk.0.{}", name)) != nullptr; };
  model.tied = !file.find("output.weight");
  model.permuted = model.model_type == "llama" || model.model_type == "mistral";
  model.qk_norm = model.model_type == "qwen3";
  if (model.model_type == "qwen2") {
    model.qkv_bias = true;
  } else if (model.model_type != "mistral") {
    const bool some = has("attn_q.bias") || has("attn_k.bias") || has("attn_v.bias") || has("attn_output.bias");
    model.qkv_bias = some;  // attention_bias of Llama and Qwen 3 means all four
    model.o_bias = some;
  }
  if (model.model_type == "llama") model.mlp_bias = has("ffn_gate.bias") || has("ffn_up.bias") || has("ffn_down.bias");
  if (const auto layout = file.string(reader.full("tensor_data_layout")))
    if (!model.permuted || *layout != "Meta AI original pth")
      reader.problem(0, "{} is {}, which this build does not know", quote(reader.full("tensor_data_layout")),
                     quote(*layout));
}

// rope_scaling of config.json: null, linear or llama3.
Json read_rope_scaling(KeyReader& reader, const GgufModel& model, double rope_theta,
                       std::vector<std::string>& problems) {
  const GgufFile& file = reader.file();
  const auto type = file.string(reader.full("rope.scaling.type"));
  if (type && *type != "none" && *type != "linear") {
    reader.problem(0, "{} is {}; this build knows none, linear, and llama3 (the tensor \"rope_freqs.weight\")",
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
    reader.problem(0, "\"rope_freqs.weight\" is {}; expected [{}], half the size of a head", describe(*tensor),
                   model.head_dim / 2);
    return nullptr;
  }
  if (tensor) {
    std::vector<float> factors(static_cast<std::size_t>(tensor->num_elements()));
    io::dequantize(*tensor, factors);
    Json scaling = recover_llama3_scaling(factors, rope_theta, problems);
    if (!scaling.is_null() && factor != 1)
      reader.problem(0, "has both \"rope_freqs.weight\" and a linear rotary scaling of {}; only one can be expressed",
                     factor);
    if (!scaling.is_null()) return scaling;
  }
  if (factor == 1) return nullptr;
  return Json{{"rope_type", "linear"}, {"factor", factor}};
}

// The window in tokens of the config; 0 for none.
std::int64_t read_sliding_window(KeyReader& reader, const GgufModel& model) {
  const std::int64_t window = reader.integer("attention.sliding_window", 0, 0);
  if (window == 0 || window >= model.context_length) return 0;
  if (model.model_type == "mistral") return window;
  reader.problem(0,
                 "{} is {}, shorter than the context of {}: which layers use it is not said in the file, so it cannot "
                 "be expressed",
                 quote(reader.full("attention.sliding_window")), window, model.context_length);
  return 0;
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

Json make_config(const GgufModel& model, double rope_theta, const Json& rope_scaling, double rms_norm_eps,
                 std::int64_t sliding_window) {
  static const std::map<std::string, std::string> kClasses = {{"llama", "LlamaForCausalLM"},
                                                              {"mistral", "MistralForCausalLM"},
                                                              {"qwen2", "Qwen2ForCausalLM"},
                                                              {"qwen3", "Qwen3ForCausalLM"}};
  Json config;
  config["architectures"] = Json::array({kClasses.at(model.model_type)});
  config["model_type"] = model.model_type;
  if (model.model_type == "llama" || model.model_type == "qwen3") config["attention_bias"] = model.o_bias;
  config["attention_dropout"] = 0.0;
  if (model.model_type != "qwen2") config["head_dim"] = model.head_dim;
  config["hidden_act"] = "silu";
  config["hidden_size"] = model.hidden_size;
  config["intermediate_size"] = model.intermediate_size;
  config["max_position_embeddings"] = model.context_length;
  if (model.model_type == "llama") config["mlp_bias"] = model.mlp_bias;
  config["num_attention_heads"] = model.num_heads;
  config["num_hidden_layers"] = model.num_layers;
  config["num_key_value_heads"] = model.num_kv_heads;
  config["rms_norm_eps"] = rms_norm_eps;
  config["rope_scaling"] = rope_scaling;
  config["rope_theta"] = rope_theta;
  if (model.model_type == "mistral") config["sliding_window"] = sliding_window > 0 ? Json(sliding_window) : Json();
  if (model.model_type == "qwen2" || model.model_type == "qwen3") config["use_sliding_window"] = false;
  config["tie_word_embeddings"] = model.tied;
  config["use_cache"] = true;
  config["vocab_size"] = model.vocab_size;
  return config;
}

}  // namespace

GgufModel read_gguf_model(const io::GgufFile& file) {
  const auto architecture = file.string("general.architecture");
  if (!architecture)
    throw DataError("{}: has no \"general.architecture\"; expected one of {}.", file.where(),
                    fmt::join(kArchitectures, ", "));
  if (std::ranges::count(kArchitectures, *architecture) == 0)
    throw DataError("{}: general.architecture is {}; this build knows {}.", file.where(), quote(*architecture),
                    fmt::join(kArchitectures, ", "));
  std::vector<std::string> problems;
  GgufModel model;
  model.model_type = *architecture;
  KeyReader reader(file, model.model_type, problems);
  check_general_keys(file, problems);
  read_dimensions(reader, model);
  read_vocabulary_size(reader, model);
  read_structure(reader, model);
  if (model.model_type == "qwen2" && model.head_dim * model.num_heads != model.hidden_size)
    reader.problem(0, "{} is {}; Qwen 2 has {} / {} only", quote(reader.full("attention.key_length")), model.head_dim,
                   model.hidden_size, model.num_heads);
  const double rope_theta = reader.positive_number("rope.freq_base", 10000.0);  // llama.cpp's default
  const Json rope_scaling = read_rope_scaling(reader, model, rope_theta, problems);
  const double eps = reader.positive_number("attention.layer_norm_rms_epsilon", {});
  const std::int64_t sliding_window = read_sliding_window(reader, model);
  check_keys(reader, model);
  model.config = make_config(model, rope_theta, rope_scaling, eps, sliding_window);
  model.generation_config = Json::object();
  write_token_ids(file, model, model.config, problems);
  for (const char* name : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (!model.config[name].is_null()) model.generation_config[name] = model.config[name];
  throw_gguf_problems(file.where(), problems);
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
