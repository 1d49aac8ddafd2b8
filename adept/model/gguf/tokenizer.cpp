#include "adept/model/gguf/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/nearest_name.h"
#include "adept/io/text_quote.h"
#include "adept/model/gguf/vocabulary.h"

namespace adept::model {
namespace {

using io::GgufFile;
using io::quote;

// The regular expressions are those of the models' own tokenizer.json files.
constexpr const char* kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// "default" is llama.cpp's own (llama-vocab.cpp): four expressions, each applied to the pieces of the one before.
constexpr const char* kDefaultSplits[] = {
    R"([\p{P}\$\+<=>\^~\|]+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))",
    R"(\p{N}+)",
    R"([0-9][0-9][0-9])",
};

Json byte_level(bool use_regex) {
  return Json{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json split(const char* pattern) {
  return Json{{"type", "Split"}, {"pattern", Json{{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json sequence(std::string_view parts_name, std::vector<Json> parts) {
  return Json{{"type", "Sequence"}, {std::string(parts_name), std::move(parts)}};
}

// How text is cut before the merges.
struct PreTokenizer {
  std::vector<std::string_view> names;  // values of tokenizer.ggml.pre
  Json normalizer;
  Json pre_tokenizer;
  bool ignore_merges = false;  // a piece that is a token as a whole stays whole
  bool add_bos = false;        // llama.cpp's default where the file does not say
};

// The names that llama.cpp takes for the same (llama-vocab.cpp, the table of tokenizer_pre and the expressions of each
// LLAMA_VOCAB_PRE_TYPE). It normalizes nothing; NFC is what the original tokenizer.json of a row has: Qwen2's, Command
// R's, and GPT-NeoX's in the last but one.
std::vector<PreTokenizer> known_pre_tokenizers() {
  const Json digits{{"type", "Digits"}, {"individual_digits", true}}, nfc{{"type", "NFC"}};
  const Json by_digits = sequence("pretokenizers", {digits, byte_level(true)});
  const Json by_llama3 = sequence("pretokenizers", {split(kLlama3Split), byte_level(false)});
  const Json by_qwen2 = sequence("pretokenizers", {split(kQwen2Split), byte_level(false)});
  std::vector<Json> default_parts;
  for (const char* pattern : kDefaultSplits) default_parts.push_back(split(pattern));
  default_parts.push_back(byte_level(false));
  return {
      {{"smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"}, nullptr, by_digits},
      {{"command-r"}, nfc, by_digits},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
       nullptr,
       by_llama3,
       /*ignore_merges=*/true,
       /*add_bos=*/true},
      {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, nullptr, by_llama3},
      {{"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"}, nfc, by_qwen2},
      {{"stablelm2", "hunyuan", "solar-open", "grok-2"}, nullptr, by_qwen2},
      {{"gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "exaone4",
        "jais", "trillion", "granite-docling"},
       nullptr,
       byte_level(true)},
      {{"mpt", "olmo", "modern-bert"}, nfc, byte_level(true)},
      {{"default"}, nullptr, sequence("pretokenizers", default_parts)},
  };
}

// Keys below "tokenizer.ggml." that are looked at, or whose subject does not occur in these tokenizers.
bool is_known_key(std::string_view key) {
  constexpr std::string_view kKnown[] = {"model",
                                         "pre",
                                         "tokens",
                                         "token_type",
                                         "scores",
                                         "merges",
                                         "add_bos_token",
                                         "add_eos_token",
                                         "add_space_prefix",
                                         "token_type_count",
                                         "add_sep_token",
                                         "remove_extra_whitespaces",
                                         "precompiled_charsmap"};
  return std::ranges::count(kKnown, key) != 0 || key.ends_with("_token_id") || key.ends_with("_token_ids");
}

void check_keys(const GgufFile& file, std::vector<std::string>& problems) {
  constexpr std::string_view kPrefix = "tokenizer.ggml.";
  for (const std::string& key : file.keys())
    if (key.starts_with(kPrefix) && !is_known_key(std::string_view(key).substr(kPrefix.size())))
      problems.push_back(fmt::format("{} is not known here and may change the tokens", quote(key)));
  for (const char* key : {"tokenizer.ggml.add_sep_token", "tokenizer.ggml.remove_extra_whitespaces"})
    if (file.boolean(key).value_or(false))
      problems.push_back(fmt::format("\"{}\" is true, which is not implemented", key));
  if (const io::GgufValue* map = file.value("tokenizer.ggml.precompiled_charsmap"); map && map->count > 0)
    problems.push_back("\"tokenizer.ggml.precompiled_charsmap\" is not empty: its normalisation is not implemented");
}

// The post-processor that puts BOS before and EOS after each text; null for neither.
Json make_template(const GgufVocabulary& vocabulary, bool add_bos, bool add_eos, std::vector<std::string>& problems) {
  const auto require = [&](bool wanted, const std::optional<std::int64_t>& id, std::string_view name) {
    if (wanted && !id)
      problems.push_back(fmt::format("the tokenizer adds {0}, but there is no \"tokenizer.ggml.{0}_token_id\"", name));
    return wanted && id;
  };
  add_bos = require(add_bos, vocabulary.bos, "bos");
  add_eos = require(add_eos, vocabulary.eos, "eos");
  if (!add_bos && !add_eos) return nullptr;
  Json special = Json::object();
  const auto token = [&](std::int64_t id, int type) {
    const std::string text(vocabulary.token(id));
    special[text] = Json{{"id", text}, {"ids", {id}}, {"tokens", {text}}};
    return Json{{"SpecialToken", Json{{"id", text}, {"type_id", type}}}};
  };
  const auto part = [&](const char* sequence_id, int type) {
    std::vector<Json> items;
    if (add_bos) items.push_back(token(*vocabulary.bos, type));
    items.push_back(Json{{"Sequence", Json{{"id", sequence_id}, {"type_id", type}}}});
    if (add_eos) items.push_back(token(*vocabulary.eos, type));
    return items;
  };
  std::vector<Json> pair = part("A", 0);
  for (Json& item : part("B", 1)) pair.push_back(std::move(item));
  return Json{{"type", "TemplateProcessing"}, {"single", part("A", 0)}, {"pair", pair}, {"special_tokens", special}};
}

// What differs between the two kinds of tokenizer.
struct Parts {
  Json normalizer, pre_tokenizer, post_processor, decoder;
  Json model;  // without vocab and merges
  std::vector<std::string> merges;
};

Parts byte_level_parts(const GgufFile& file, const GgufVocabulary& vocabulary, const PreTokenizer& pre,
                       std::vector<std::string>& problems) {
  if (file.boolean("tokenizer.ggml.add_space_prefix").value_or(false))
    problems.push_back("\"tokenizer.ggml.add_space_prefix\" is true, which is not implemented for byte-level BPE");
  Parts parts;
  parts.normalizer = pre.normalizer;
  parts.pre_tokenizer = pre.pre_tokenizer;
  parts.decoder = byte_level(true);
  parts.model = Json{{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", pre.ignore_merges}};
  parts.merges = read_merges(file, vocabulary, problems);
  parts.post_processor = make_template(vocabulary, file.boolean("tokenizer.ggml.add_bos_token").value_or(pre.add_bos),
                                       file.boolean("tokenizer.ggml.add_eos_token").value_or(false), problems);
  return parts;
}

// As transformers converts Llama 2's tokenizer.model (convert_slow_tokenizer.py, LlamaConverter).
Parts sentencepiece_parts(const GgufFile& file, const GgufVocabulary& vocabulary, std::vector<std::string>& problems) {
  const bool add_prefix = file.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  Parts parts;
  const Json replace{{"type", "Replace"}, {"pattern", Json{{"String", " "}}}, {"content", "▁"}};
  std::vector<Json> normalizers;
  if (add_prefix) normalizers.push_back(Json{{"type", "Prepend"}, {"prepend", "▁"}});
  normalizers.push_back(replace);
  parts.normalizer = sequence("normalizers", normalizers);
  std::vector<Json> decoders = {Json{{"type", "Replace"}, {"pattern", Json{{"String", "▁"}}}, {"content", " "}},
                                Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}};
  if (add_prefix) decoders.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  parts.decoder = sequence("decoders", decoders);
  const bool has_bytes = std::ranges::count(vocabulary.types, GgufTokenType::kByte) != 0;
  if (has_bytes) check_byte_tokens(vocabulary, problems);
  parts.model = Json{{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", vocabulary.unk ? Json(vocabulary.token(*vocabulary.unk)) : Json()},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", true},
                     {"byte_fallback", has_bytes},
                     {"ignore_merges", false}};
  parts.merges = merges_from_scores(file, vocabulary, problems);
  parts.post_processor = make_template(vocabulary, file.boolean("tokenizer.ggml.add_bos_token").value_or(true),
                                       file.boolean("tokenizer.ggml.add_eos_token").value_or(false), problems);
  return parts;
}

std::string json_string(std::string_view text) { return Json(text).dump(); }

// Written by hand where it is long: an object of nlohmann's ordered kind takes quadratic time to fill.
std::string tokenizer_json_text(const GgufVocabulary& vocabulary, const Parts& parts) {
  std::vector<Json> added;
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    const bool special = vocabulary.is_special(id);
    if (!special && vocabulary.types[static_cast<std::size_t>(id)] != GgufTokenType::kUserDefined) continue;
    added.push_back(Json{{"id", id},
                         {"content", vocabulary.token(id)},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", false},
                         {"special", special}});
  }
  std::string text = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  text += "  \"added_tokens\": " + Json(added).dump(2) + ",\n";
  text += "  \"normalizer\": " + parts.normalizer.dump() + ",\n";
  text += "  \"pre_tokenizer\": " + parts.pre_tokenizer.dump() + ",\n";
  text += "  \"post_processor\": " + parts.post_processor.dump() + ",\n";
  text += "  \"decoder\": " + parts.decoder.dump() + ",\n  \"model\": {\n";
  for (const auto& [key, value] : parts.model.items())
    text += fmt::format("    {}: {},\n", json_string(key), value.dump());
  text += "    \"vocab\": {";
  const char* separator = "\n";
  for (std::int64_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.is_filler(id)) continue;
    text += fmt::format("{}      {}: {}", separator, json_string(vocabulary.token(id)), id);
    separator = ",\n";
  }
  text += "\n    },\n    \"merges\": [";
  separator = "\n";
  for (const std::string& merge : parts.merges) {
    text += fmt::format("{}      {}", separator, json_string(merge));
    separator = ",\n";
  }
  return text + "\n    ]\n  }\n}\n";
}

// A template, or named ones where there are several.
Json read_chat_templates(const GgufFile& file) {
  const auto main = file.string("tokenizer.chat_template");
  std::vector<Json> named;
  constexpr std::string_view kPrefix = "tokenizer.chat_template.";
  for (const std::string& key : file.keys())
    if (key.starts_with(kPrefix))
      named.push_back(Json{{"name", key.substr(kPrefix.size())}, {"template", *file.string(key)}});
  if (named.empty()) return main ? Json(*main) : Json();
  if (main) named.insert(named.begin(), Json{{"name", "default"}, {"template", *main}});
  return named;
}

// A token that occurs in text as any other cannot be named here: transformers would cut text at it.
Json read_special_tokens(const GgufFile& file, const GgufVocabulary& vocabulary) {
  const std::pair<const char*, std::optional<std::int64_t>> kNames[] = {{"bos_token", vocabulary.bos},
                                                                        {"eos_token", vocabulary.eos},
                                                                        {"unk_token", vocabulary.unk},
                                                                        {"pad_token", vocabulary.pad}};
  Json special = Json::object();
  for (const auto& [name, id] : kNames) {
    if (!id) continue;
    if (vocabulary.is_special(*id))
      special[name] = vocabulary.token(*id);
    else
      log_warning("{}: {} is token {}, {}, which is no control token; the tokenizer's files leave it out", file.where(),
                  name, *id, quote(vocabulary.token(*id)));
  }
  return special;
}

DataError unknown_pre_tokenizer(const GgufFile& file, std::string_view name, const std::vector<PreTokenizer>& known) {
  std::vector<std::string> all;
  for (const PreTokenizer& pre : known) all.insert(all.end(), pre.names.begin(), pre.names.end());
  const std::string nearest = nearest_name(name, all);
  return DataError(
      "{}: tokenizer.ggml.pre is {}; this build knows smollm, llama-bpe, qwen2, gpt-2 and default, and the names that "
      "llama.cpp takes for one of them{}. How this one splits text is not implemented: use the model's original files "
      "in the Hugging Face layout, or, if it splits as one of these does, write that name into the file with "
      "gguf_set_metadata.py of llama.cpp.",
      file.where(), quote(name), nearest.empty() ? "" : fmt::format(" (the nearest name is {})", nearest));
}

}  // namespace

GgufTokenizer read_gguf_tokenizer(const io::GgufFile& file, const GgufModel& model) {
  std::vector<std::string> problems;
  const auto kind = file.string("tokenizer.ggml.model");
  if (!kind) throw DataError("{}: has no \"tokenizer.ggml.model\"; expected \"gpt2\" or \"llama\".", file.where());
  if (*kind != "gpt2" && *kind != "llama")
    throw DataError(
        "{}: tokenizer.ggml.model is {}; this build knows \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece BPE).",
        file.where(), quote(*kind));
  const auto pre_name = file.string("tokenizer.ggml.pre");
  const std::vector<PreTokenizer> known = known_pre_tokenizers();
  const auto pre = std::ranges::find_if(known, [&](const PreTokenizer& candidate) {
    return std::ranges::count(candidate.names, pre_name.value_or("")) != 0;
  });
  if (*kind == "gpt2" && !pre_name)
    throw DataError(
        "{}: has no \"tokenizer.ggml.pre\", as files of old converters: how text is split is unknown. Convert the "
        "model again with a current llama.cpp.",
        file.where());
  if (*kind == "gpt2" && pre == known.end()) throw unknown_pre_tokenizer(file, *pre_name, known);
  if (*kind == "llama" && pre_name && *pre_name != "default")
    problems.push_back(
        fmt::format("tokenizer.ggml.pre is {}; a SentencePiece tokenizer has \"default\" or none", quote(*pre_name)));
  check_keys(file, problems);
  const GgufVocabulary vocabulary = read_vocabulary(file, model.vocab_size, problems);
  throw_gguf_problems(file.where(), problems);
  const Parts parts = *kind == "gpt2" ? byte_level_parts(file, vocabulary, *pre, problems)
                                      : sentencepiece_parts(file, vocabulary, problems);
  throw_gguf_problems(file.where(), problems);

  GgufTokenizer result;
  result.pre_tokenizer = *kind == "gpt2" ? std::string(*pre_name) : "sentencepiece";
  result.tokenizer_json = tokenizer_json_text(vocabulary, parts);
  result.special_tokens_map = read_special_tokens(file, vocabulary);
  result.tokenizer_config = result.special_tokens_map;
  if (Json templates = read_chat_templates(file); !templates.is_null())
    result.tokenizer_config["chat_template"] = std::move(templates);
  result.tokenizer_config["clean_up_tokenization_spaces"] = false;
  result.tokenizer_config["model_max_length"] = model.context_length;
  result.tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return result;
}

}  // namespace adept::model
