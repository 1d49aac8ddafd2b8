#include "adept/model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/model/architectures/architecture.h"

namespace adept::model {
namespace {

constexpr std::size_t kMostProblems = 50;  // problems in one message

/// Keys that change nothing that a forward pass, a loss or an exported model depends on, each with the reason.
constexpr std::string_view kHarmless[] = {
    // Python code beside the model: transformers prefers its own for a model_type that it has
    "auto_map",
    // who wrote the file
    "transformers_version", "_name_or_path", "name_or_path", "_model_name_or_path", "_commit_hash", "unsloth_version",
    "unsloth_fixed", "transformers.js_config", "is_llama_config",
    // initial values of weights that are loaded here
    "initializer_range", "init_std", "initializer_factor",
    // how a Python program runs the model
    "use_cache", "cache_implementation", "output_attentions", "output_hidden_states", "return_dict",
    "return_dict_in_generate", "output_scores", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset", "_attn_implementation_internal", "_flash_attn_2_enabled", "use_flash_attention",
    "use_flash_attention_2", "use_flash_attn", "use_sdpa", "experts_implementation", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "keys_to_ignore_at_inference", "base_model_tp_plan", "base_model_pp_plan",
    "gradient_checkpointing", "use_gradient_checkpointing", "neftune_noise_alpha",
    // context lengths under other names: a hint, as max_position_embeddings is
    "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "n_positions", "n_ctx", "model_max_length",
    // padding never takes part in attention or loss; BOS is what tokenizer.json puts before a text
    "pad_token_id", "bos_token_id",
    // other special tokens: the tokenizer's business
    "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id", "tokenizer_class",
    "prefix", "chat_template",
    // heads of other tasks
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    "classifier_dropout",
    // defaults of generate(), from before generation_config.json
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "num_beam_groups",
    "diversity_penalty"};

/// Features that other architectures have: with these values (or null) they are off, wherever they stand.
const std::pair<std::string_view, std::vector<Json>> kFeaturesThatAreOff[] = {
    {"attention_bias", {false}},
    {"mlp_bias", {false}},
    {"use_bias", {false}},
    {"lm_head_bias", {false}},
    {"use_qk_norm", {false}},
    {"qk_layernorm", {false}},
    {"sliding_window", {0}},
    {"use_sliding_window", {false}},
    {"use_mrope", {false}},
    {"rope_interleaved", {false}},
    {"pretraining_tp", {1}},
    {"parallel_residual", {false}},
    {"use_parallel_residual", {false}},
    {"is_causal", {true}},
    {"embedding_multiplier", {1}},
    {"residual_multiplier", {1}},
    {"logits_scaling", {1}},
    {"logit_scale", {1}},
    {"final_logit_softcapping", {0}},
    {"attn_logit_softcapping", {0}},
    {"num_experts", {0}},
    {"num_local_experts", {0}},
    {"num_experts_per_tok", {0}},
    {"num_nextn_predict_layers", {0}},
    {"z_loss_weight", {0}},
};

void ignore_features_that_are_off(ConfigReader& reader) {
  reader.ignore("max_window_layers");  // says nothing without a window
  for (const auto& [key, off] : kFeaturesThatAreOff)
    if (reader.is_null_or_one_of(key, off)) reader.ignore(key);
}

void read_structure(ConfigReader& reader) {
  const char* const kStock = "Only the standard architecture is supported.";
  reader.require("is_encoder_decoder", {false}, kStock);
  reader.require("add_cross_attention", {false}, kStock);
  reader.require("cross_attention_hidden_size", {}, kStock);
  reader.require("is_decoder", {false, true}, kStock);
  reader.require("tie_encoder_decoder", {false}, kStock);
  reader.require("pruned_heads", {Json::object()}, "Pruned heads are not supported.");
  reader.require("chunk_size_feed_forward", {0}, "Set it to 0; the result differs only by rounding.");
  reader.require("quantization_config", {},
                 "Quantized weights are not supported; use the model's full-precision files.");
  reader.require("per_layer_config", {}, "Layers of different sizes are not supported.");
}

/// Dropout has no effect on evaluation, so that a probability does not stop a command that does not train.
void read_dropout(ConfigReader& reader, ModelConfig& config) {
  for (const std::string_view key :
       {"attention_dropout", "attn_pdrop", "embedding_dropout", "embd_pdrop", "hidden_dropout", "hidden_dropout_prob",
        "mlp_dropout", "resid_pdrop", "residual_dropout"}) {
    const Json& value = reader.take(key);
    if (value.is_null() || value == 0) continue;
    if (value.is_number() && value > 0 && value < 1)
      config.dropout.push_back(fmt::format("{} {}", key, brief(value)));
    else
      reader.problem(key, fmt::format("is {}; expected a probability", brief(value)));
  }
}

void read_class(ConfigReader& reader, const Architecture& architecture) {
  const Json& classes = reader.take("architectures");
  if (classes.is_null() || (classes.is_array() && classes.empty())) return;
  if (classes == Json::array({architecture.class_name})) return;
  reader.problem("architectures", fmt::format("is {}; expected [\"{}\"] for model_type \"{}\"", brief(classes),
                                              architecture.class_name, architecture.model_type));
}

/// A hint only: the files say what they hold.
void read_dtype(ConfigReader& reader, ModelConfig& config) {
  const Json& old_name = reader.take("torch_dtype");
  const Json& new_name = reader.take("dtype");
  const Json& name = new_name.is_null() ? old_name : new_name;
  if (name == "float32") config.dtype = DType::kF32;
  if (name == "float16") config.dtype = DType::kF16;
  if (name == "bfloat16") config.dtype = DType::kBF16;
}

void throw_problems(const std::string& where, const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min(problems.size(), kMostProblems); ++i)
    lines.push_back(fmt::format("{}: {}", where, problems[i]));
  if (problems.size() > kMostProblems) lines.push_back(fmt::format("... and {} more", problems.size() - kMostProblems));
  throw DataError("{}", fmt::join(lines, "\n"));
}

// What to do with a model that takes more than text.
std::string advice_on_text_config(const Json& source) {
  const auto text = source.find("text_config");
  if (text == source.end() || !text->is_object()) return {};
  const auto inside = text->find("model_type");
  return fmt::format(
      ". text_config{} describes the language model of a multimodal model. Save that model alone: text_config becomes "
      "config.json, and tensor names lose \"language_model.\"",
      inside != text->end() ? fmt::format(" (model_type {})", brief(*inside)) : "");
}

[[noreturn]] void refuse_model_type(const Json& model_type, const Json& source, const std::string& where) {
  std::vector<std::string_view> names;
  for (const Architecture* architecture : known_architectures()) names.push_back(architecture->model_type);
  throw DataError("{}: model_type {}; this build knows {}{}", where,
                  model_type.is_null() ? "is missing" : "is " + brief(model_type), fmt::join(names, ", "),
                  advice_on_text_config(source));
}

}  // namespace

ModelConfig parse_model_config(const Json& source, const std::string& where) {
  if (!source.is_object()) throw DataError("{}: found {}; expected a JSON object", where, brief(source));
  std::vector<std::string> problems;
  ConfigReader reader(source, "", problems);
  const Json& model_type = reader.take("model_type");
  const Architecture* architecture =
      model_type.is_string() ? find_architecture(model_type.get<std::string>()) : nullptr;
  if (architecture == nullptr) refuse_model_type(model_type, source, where);

  ModelConfig config;
  config.model_type = architecture->model_type;
  config.source = source;
  architecture->read(reader, config);
  read_structure(reader);
  ignore_features_that_are_off(reader);
  read_class(reader, *architecture);
  read_dropout(reader, config);
  read_dtype(reader, config);
  for (const std::string_view key : kHarmless) reader.ignore(key);
  reader.refuse_unknown("It may change what the model computes. Remove it if you are sure that it does not.");
  throw_problems(where, problems);
  return config;
}

ModelConfig read_model_config(const std::filesystem::path& model_dir) {
  const std::filesystem::path path = model_dir / "config.json";
  if (!is_present(path))
    throw DataError("{}: has no config.json; expected a Hugging Face model folder.", model_dir.string());
  return parse_model_config(read_json(path), path.string());
}

}  // namespace adept::model
