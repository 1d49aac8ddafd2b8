// Tiny models as GGUF files in memory.
#pragma once

#include <numeric>
#include <string>
#include <vector>

#include "adept/io/gguf.h"
#include "adept/model/gguf/config.h"
#include "adept/model/gguf/tensors.h"
#include "adept/model/gguf/tokenizer.h"
#include "tests/unit/io/gguf_builder.h"
#include "tests/unit/io/support.h"

namespace adept::gguf_test {

using namespace model;  // NOLINT(google-build-using-namespace)

using io::test::data_error;
using io::test::GgufBuilder;
using io::test::ParsedGguf;
using io::test::TemporaryDirectory;

constexpr std::uint64_t kHidden = 8;  // 2 heads of 4, 1 key-value head
constexpr std::uint64_t kFeedForward = 12;

inline std::string utf8(unsigned codepoint) {
  if (codepoint < 0x80) return {static_cast<char>(codepoint)};
  return {static_cast<char>(0xc0 | codepoint >> 6), static_cast<char>(0x80 | (codepoint & 0x3f))};
}

/// The 256 characters that stand for bytes in byte-level BPE (openai/gpt-2, encoder.py).
inline std::vector<std::string> byte_alphabet() {
  std::vector<std::string> characters;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    characters.push_back(utf8(printable ? byte : next));
    if (!printable) ++next;
  }
  return characters;
}

/// 256 bytes, four merges' results, one control and one user-defined token.
inline void set_byte_level_tokenizer(GgufBuilder& builder, const std::string& pre) {
  std::vector<std::string> tokens = byte_alphabet();
  for (const char* token : {"Ġt", "he", "Ġthe", "12", "<|end|>", "  "}) tokens.emplace_back(token);
  std::vector<std::int32_t> types(tokens.size(), 1);
  types[260] = 3;
  types[261] = 4;
  builder.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", pre);
  builder.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.token_type", types);
  builder.set("tokenizer.ggml.merges", std::vector<std::string>{"Ġ t", "h e", "Ġt he", "1 2"});
  builder.set("tokenizer.ggml.eos_token_id", std::uint32_t{260});
}

/// <unk>, <s>, </s>, the bytes, single characters, and pieces whose scores say: "he" before "th", then "the", "▁the".
inline void set_sentencepiece_tokenizer(GgufBuilder& builder) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> types = {2, 3, 3};
  std::vector<float> scores = {0, 0, 0};
  const auto add = [&](const std::string& token, std::int32_t type, float score) {
    tokens.push_back(token);
    types.push_back(type);
    scores.push_back(score);
  };
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 6, 0);
  add("th", 1, -5);
  add("he", 1, -1);
  add("the", 1, -2);
  add("▁the", 1, -3);
  float score = -100;
  for (const char* character : {"▁", "t", "h", "e", "<", "s", ">"}) add(character, 1, score--);
  builder.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", tokens);
  builder.set("tokenizer.ggml.token_type", types).set("tokenizer.ggml.scores", scores);
  builder.set("tokenizer.ggml.bos_token_id", std::uint32_t{1}).set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
  builder.remove("tokenizer.ggml.pre").remove("tokenizer.ggml.merges");
}

/// Element i of each tensor is `first` + i.
inline void add_counting(GgufBuilder& builder, const std::string& name, std::vector<std::uint64_t> sizes, float first) {
  std::size_t count = 1;
  for (const std::uint64_t size : sizes) count *= size;
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  builder.add_f32(name, std::move(sizes), values);
}

/// One layer of `architecture`, an untied head, the byte-level tokenizer with `pre`.
inline GgufBuilder tiny_model(const std::string& architecture = "llama", const std::string& pre = "smollm") {
  GgufBuilder builder;
  const std::string a = architecture + ".";
  builder.set("general.architecture", architecture).set("general.name", "Tiny");
  builder.set(a + "block_count", std::uint32_t{1}).set(a + "context_length", std::uint32_t{64});
  builder.set(a + "embedding_length", std::uint32_t{kHidden});
  builder.set(a + "feed_forward_length", std::uint32_t{kFeedForward});
  builder.set(a + "attention.head_count", std::uint32_t{2}).set(a + "attention.head_count_kv", std::uint32_t{1});
  builder.set(a + "attention.layer_norm_rms_epsilon", 1e-5f).set(a + "rope.freq_base", 10000.0f);
  set_byte_level_tokenizer(builder, pre);
  constexpr std::uint64_t kVocabulary = 270;  // the longer tokenizer's
  add_counting(builder, "token_embd.weight", {kHidden, kVocabulary}, 0);
  add_counting(builder, "output.weight", {kHidden, kVocabulary}, 1);
  add_counting(builder, "output_norm.weight", {kHidden}, 0.5f);
  const std::string l = "blk.0.";
  add_counting(builder, l + "attn_norm.weight", {kHidden}, 1);
  add_counting(builder, l + "attn_q.weight", {kHidden, kHidden}, 0);
  add_counting(builder, l + "attn_k.weight", {kHidden, kHidden / 2}, 100);
  add_counting(builder, l + "attn_v.weight", {kHidden, kHidden / 2}, 200);
  add_counting(builder, l + "attn_output.weight", {kHidden, kHidden}, 300);
  add_counting(builder, l + "ffn_norm.weight", {kHidden}, 2);
  add_counting(builder, l + "ffn_gate.weight", {kHidden, kFeedForward}, 400);
  add_counting(builder, l + "ffn_up.weight", {kHidden, kFeedForward}, 500);
  add_counting(builder, l + "ffn_down.weight", {kFeedForward, kHidden}, 600);
  if (architecture == "qwen2") {
    add_counting(builder, l + "attn_q.bias", {kHidden}, 0);
    add_counting(builder, l + "attn_k.bias", {kHidden / 2}, 0);
    add_counting(builder, l + "attn_v.bias", {kHidden / 2}, 0);
  }
  if (architecture == "qwen3") {
    add_counting(builder, l + "attn_q_norm.weight", {kHidden / 2}, 0);
    add_counting(builder, l + "attn_k_norm.weight", {kHidden / 2}, 0);
  }
  return builder;
}

inline GgufModel model_of(const GgufBuilder& builder) { return read_gguf_model(*ParsedGguf(builder.build())); }

inline GgufTokenizer tokenizer_of(const GgufBuilder& builder) {
  const ParsedGguf file(builder.build());
  return read_gguf_tokenizer(*file, read_gguf_model(*file));
}

/// The message that refuses the file, whichever part of the import sees the fault.
inline std::string refusal(const GgufBuilder& builder) {
  return data_error([&] {
    const ParsedGguf file(builder.build());
    const GgufModel model = read_gguf_model(*file);
    plan_gguf_tensors(*file, model);
    read_gguf_tokenizer(*file, model);
  });
}

}  // namespace adept::gguf_test
