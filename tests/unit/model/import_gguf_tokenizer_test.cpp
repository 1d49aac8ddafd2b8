#include "adept/model/gguf/tokenizer.h"

#include <gmock/gmock.h>

#include <functional>

#include "adept/data/tokenizer/tokenizer.h"
#include "tests/support/reads.h"
#include "tests/unit/model/import_gguf_support.h"

namespace adept::model {
namespace {

using gguf_test::GgufBuilder;
using gguf_test::refusal;
using gguf_test::tiny_model;
using gguf_test::tokenizer_of;
using test::Says;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

/// The pieces that the imported tokenizer cuts `text` into.
std::vector<std::string> tokens_of(const GgufBuilder& builder, const std::string& text) {
  const gguf_test::TemporaryDirectory directory;
  io::test::write(directory / "tokenizer.json", tokenizer_of(builder).tokenizer_json);
  const auto tokenizer = data::Tokenizer::from_file(directory / "tokenizer.json");
  std::vector<std::string> tokens;
  for (const std::int32_t id : tokenizer.encode(text)) tokens.push_back(*tokenizer.id_to_token(id));
  return tokens;
}

std::string decoded(const GgufBuilder& builder, const std::string& text) {
  const gguf_test::TemporaryDirectory directory;
  io::test::write(directory / "tokenizer.json", tokenizer_of(builder).tokenizer_json);
  const auto tokenizer = data::Tokenizer::from_file(directory / "tokenizer.json");
  return tokenizer.decode(tokenizer.encode(text));
}

TEST(ImportGgufTokenizer, EachPreTokenizerCutsDigitsInItsOwnWay) {
  // The merge "1 2" shows whether two digits may come together, and the blank whether it may stay with them.
  EXPECT_THAT(tokens_of(tiny_model("llama", "smollm"), "a 12"), ElementsAre("a", "Ġ", "1", "2"));
  EXPECT_THAT(tokens_of(tiny_model("llama", "qwen2"), "a 12"), ElementsAre("a", "Ġ", "1", "2"));
  EXPECT_THAT(tokens_of(tiny_model("llama", "gpt-2"), "a 12"), ElementsAre("a", "Ġ", "12"));
  GgufBuilder llama3 = tiny_model("llama", "llama-bpe");
  llama3.set("tokenizer.ggml.add_bos_token", false);
  EXPECT_THAT(tokens_of(llama3, "a 0012"), ElementsAre("a", "Ġ", "0", "0", "1", "2"));  // 001, 2
  EXPECT_THAT(tokens_of(tiny_model("llama", "gpt-2"), "a 0012"), ElementsAre("a", "Ġ", "0", "0", "12"));
  EXPECT_THAT(tokens_of(tiny_model("llama", "default"), "a 0012"), ElementsAre("a", "Ġ", "0", "0", "1", "2"));
  EXPECT_THAT(tokens_of(tiny_model("llama", "default"), "a012"), ElementsAre("a", "0", "12"));
}

TEST(ImportGgufTokenizer, NamesThatLlamaCppTakesForTheSameGiveTheSameTokenizer) {
  const auto json_of = [](const std::string& pre) {
    GgufBuilder builder = tiny_model("llama", pre);
    builder.set("tokenizer.ggml.bos_token_id", std::uint32_t{260});
    return tokenizer_of(builder).tokenizer_json;
  };
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"smollm", {"starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"}},
      {"llama-bpe", {"llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}},
      {"qwen2", {"deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"}},
      {"gpt-2",
       {"phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0", "mellum", "exaone4", "jais",
        "trillion", "granite-docling"}},
      {"olmo", {"mpt", "modern-bert"}}};
  for (const auto& [name, synonyms] : cases)
    for (const std::string& synonym : synonyms) EXPECT_EQ(json_of(synonym), json_of(name)) << synonym;
}

TEST(ImportGgufTokenizer, NamesOfTokenizersThatNormalizeGetTheirNormalizer) {
  for (const auto& [pre, like] : {std::pair("command-r", "smollm"), {"olmo", "gpt-2"}, {"qwen2", "stablelm2"}}) {
    Json json = Json::parse(tokenizer_of(tiny_model("llama", pre)).tokenizer_json);
    EXPECT_EQ(json["normalizer"], (Json{{"type", "NFC"}})) << pre;
    json["normalizer"] = nullptr;
    EXPECT_EQ(json, Json::parse(tokenizer_of(tiny_model("llama", like)).tokenizer_json)) << pre;
  }
}

// The same expressions, but neither the ignored merges and BOS of llama-bpe nor the NFC of qwen2.
TEST(ImportGgufTokenizer, NamesThatShareAnExpressionKeepTheirOwnDefaults) {
  for (const char* pre : {"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}) {
    EXPECT_THAT(tokens_of(tiny_model("llama", pre), "a 0012"), ElementsAre("a", "Ġ", "0", "0", "1", "2")) << pre;
    const Json json = Json::parse(tokenizer_of(tiny_model("llama", pre)).tokenizer_json);
    EXPECT_FALSE(json["model"]["ignore_merges"].get<bool>()) << pre;
  }
  for (const char* pre : {"stablelm2", "hunyuan", "solar-open", "grok-2"}) {
    EXPECT_THAT(tokens_of(tiny_model("llama", pre), "a 12"), ElementsAre("a", "Ġ", "1", "2")) << pre;
    EXPECT_TRUE(Json::parse(tokenizer_of(tiny_model("llama", pre)).tokenizer_json)["normalizer"].is_null()) << pre;
  }
}

TEST(ImportGgufTokenizer, MergesApply) {
  for (const char* pre : {"smollm", "qwen2", "gpt-2", "default"}) {
    EXPECT_THAT(tokens_of(tiny_model("llama", pre), "the the"), ElementsAre("t", "he", "Ġthe")) << pre;
    EXPECT_EQ(decoded(tiny_model("llama", pre), "Grüße, the 12!\n"), "Grüße, the 12!\n") << pre;
  }
}

TEST(ImportGgufTokenizer, ControlAndUserDefinedTokensStayWhole) {
  EXPECT_THAT(tokens_of(tiny_model(), "the<|end|>  the"), ElementsAre("t", "he", "<|end|>", "  ", "t", "he"));
  const Json json = Json::parse(tokenizer_of(tiny_model()).tokenizer_json);
  ASSERT_EQ(json["added_tokens"].size(), 2u);
  EXPECT_EQ(json["added_tokens"][0]["content"], "<|end|>");
  EXPECT_TRUE(json["added_tokens"][0]["special"].get<bool>());
  EXPECT_EQ(json["added_tokens"][1]["id"], 261);
  EXPECT_FALSE(json["added_tokens"][1]["special"].get<bool>());
}

TEST(ImportGgufTokenizer, BosAndEosAreAddedAsTheFileSays) {
  GgufBuilder builder = tiny_model();
  builder.set("tokenizer.ggml.bos_token_id", std::uint32_t{0});
  EXPECT_THAT(tokens_of(builder, "a"), ElementsAre("a"));
  builder.set("tokenizer.ggml.add_bos_token", true);
  EXPECT_THAT(tokens_of(builder, "a"), ElementsAre("Ā", "a"));
  builder.set("tokenizer.ggml.add_eos_token", true);
  EXPECT_THAT(tokens_of(builder, "a"), ElementsAre("Ā", "a", "<|end|>"));
  GgufBuilder llama3 = tiny_model("llama", "llama-bpe");  // adds BOS unless told otherwise
  EXPECT_THAT(refusal(llama3), Says("adds bos, ...no \"tokenizer.ggml.bos_token_id\""));
  llama3.set("tokenizer.ggml.bos_token_id", std::uint32_t{260});
  EXPECT_THAT(tokens_of(llama3, "a"), ElementsAre("<|end|>", "a"));
}

TEST(ImportGgufTokenizer, WhatGgufDoesNotSayIsFilledIn) {
  EXPECT_TRUE(Json::parse(tokenizer_of(tiny_model("llama", "gpt-2")).tokenizer_json)["normalizer"].is_null());
  const Json qwen = Json::parse(tokenizer_of(tiny_model("qwen2", "qwen2")).tokenizer_json);
  EXPECT_EQ(qwen["normalizer"]["type"], "NFC");
  EXPECT_FALSE(qwen["model"]["ignore_merges"].get<bool>());
  GgufBuilder llama3 = tiny_model("llama", "llama-bpe");
  llama3.set("tokenizer.ggml.bos_token_id", std::uint32_t{260});
  EXPECT_TRUE(Json::parse(tokenizer_of(llama3).tokenizer_json)["model"]["ignore_merges"].get<bool>());
}

TEST(ImportGgufTokenizer, FillersOfTheEmbeddingAreNoTokens) {
  GgufBuilder builder = tiny_model();
  std::vector<std::string> tokens = gguf_test::byte_alphabet();
  for (const char* token : {"Ġt", "he", "Ġthe", "12", "[PAD260]", "[PAD999]"}) tokens.emplace_back(token);
  std::vector<std::int32_t> types(tokens.size(), 1);
  types[260] = types[261] = 5;
  builder.set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.token_type", types);
  builder.remove("tokenizer.ggml.eos_token_id");
  const Json vocabulary = Json::parse(tokenizer_of(builder).tokenizer_json)["model"]["vocab"];
  EXPECT_FALSE(vocabulary.contains("[PAD260]"));
  EXPECT_EQ(vocabulary["[PAD999]"], 261) << "an unused token of another name is kept";
  EXPECT_EQ(vocabulary.size(), 261u);
}

TEST(ImportGgufTokenizer, NamesSpecialTokensAndTemplates) {
  GgufBuilder builder = tiny_model();
  builder.set("tokenizer.ggml.padding_token_id", std::uint32_t{261}).set("tokenizer.chat_template", "{{ x }}");
  const GgufTokenizer tokenizer = tokenizer_of(builder);
  EXPECT_EQ(tokenizer.special_tokens_map, (Json{{"eos_token", "<|end|>"}, {"pad_token", "  "}}));
  EXPECT_EQ(tokenizer.tokenizer_config["eos_token"], "<|end|>");
  EXPECT_EQ(tokenizer.tokenizer_config["chat_template"], "{{ x }}");
  EXPECT_EQ(tokenizer.tokenizer_config["model_max_length"], 64);
  builder.set("tokenizer.chat_template.tool_use", "{{ y }}");
  EXPECT_EQ(
      tokenizer_of(builder).tokenizer_config["chat_template"],
      Json::parse(R"([{"name": "default", "template": "{{ x }}"}, {"name": "tool_use", "template": "{{ y }}"}])"));
}

TEST(ImportGgufTokenizer, ANormalTokenIsNeverSpecial) {
  GgufBuilder builder = tiny_model();
  builder.set("tokenizer.ggml.unknown_token_id", std::uint32_t{257});  // "he"
  EXPECT_THAT(tokens_of(builder, " the"), ElementsAre("Ġthe"));
  const GgufTokenizer tokenizer = tokenizer_of(builder);
  EXPECT_FALSE(tokenizer.special_tokens_map.contains("unk_token"));
  EXPECT_EQ(Json::parse(tokenizer.tokenizer_json)["added_tokens"].size(), 2u);
}

GgufBuilder sentencepiece_model() {
  GgufBuilder builder = tiny_model();
  gguf_test::set_sentencepiece_tokenizer(builder);
  return builder;
}

TEST(ImportGgufTokenizer, SentencePieceMergesFollowTheScores) {
  const Json json = Json::parse(tokenizer_of(sentencepiece_model()).tokenizer_json);
  EXPECT_EQ(json["model"]["merges"], Json::parse(R"(["h e", "th e", "t he", "▁ the", "t h"])"));
  EXPECT_TRUE(json["model"]["byte_fallback"].get<bool>());
  EXPECT_EQ(json["model"]["unk_token"], "<unk>");
  EXPECT_THAT(tokens_of(sentencepiece_model(), "the tth"), ElementsAre("<s>", "▁the", "▁", "t", "th"));
  EXPECT_THAT(tokens_of(sentencepiece_model(), "é"), ElementsAre("<s>", "▁", "<0xC3>", "<0xA9>"));
  EXPECT_EQ(decoded(sentencepiece_model(), "the é  h"), "<s> the é  h");
}

TEST(ImportGgufTokenizer, SentencePieceByteTokensHaveTheNamesOfTheirBytes) {
  const auto with = [](std::size_t id, const std::string& name) {
    GgufBuilder builder = sentencepiece_model();
    const gguf_test::ParsedGguf file(builder.build());
    const auto& tokens = *file->strings("tokenizer.ggml.tokens");
    std::vector<std::string> changed(tokens.begin(), tokens.end());
    changed[id] = name;
    return builder.set("tokenizer.ggml.tokens", changed);
  };
  for (const char* name : {"<0xGG>", "<0x0a>", "0x0A", "<0x00A>"})
    EXPECT_THAT(refusal(with(13, name)),
                AllOf(HasSubstr(std::string("token 13, \"") + name + "\", is of the type byte; expected a name from"),
                      HasSubstr("1 of the 256 byte tokens are missing, such as <0x0A>")));
  EXPECT_THAT(tokens_of(with(13, "<0x0A>"), "\n"), ElementsAre("<s>", "▁", "<0x0A>"));
}

TEST(ImportGgufTokenizer, APaddingTokenThatIsNotThereIsNone) {
  for (const std::uint32_t id : {265u, 270u, 0xffffffffu}) {
    GgufBuilder builder = tiny_model();
    builder.set("tokenizer.ggml.padding_token_id", id);
    EXPECT_FALSE(tokenizer_of(builder).special_tokens_map.contains("pad_token")) << id;
    EXPECT_EQ(gguf_test::model_of(builder).config["pad_token_id"], id < 270 ? Json(id) : Json()) << id;
  }
}

TEST(ImportGgufTokenizer, SentencePieceNeverMergesIntoControlTokens) {
  // "<s>" as text in pieces would need merges of its characters; as an added token it stays whole instead.
  const Json json = Json::parse(tokenizer_of(sentencepiece_model()).tokenizer_json);
  for (const Json& merge : json["model"]["merges"]) EXPECT_EQ(merge.get<std::string>().find('<'), std::string::npos);
}

TEST(ImportGgufTokenizer, SentencePieceWithoutAPrefixBlank) {
  GgufBuilder builder = sentencepiece_model();
  builder.set("tokenizer.ggml.add_space_prefix", false).set("tokenizer.ggml.add_bos_token", false);
  EXPECT_THAT(tokens_of(builder, "the the"), ElementsAre("the", "▁the"));
  EXPECT_EQ(decoded(builder, " the"), " the");
}

// As in Gemma's: user-defined runs of blanks and line ends, whose scores llama.cpp's converter invents.
GgufBuilder gemma_model() {
  GgufBuilder builder = sentencepiece_model();
  const gguf_test::ParsedGguf file(builder.build());
  const auto& known = *file->strings("tokenizer.ggml.tokens");
  std::vector<std::string> tokens(known.begin(), known.end());
  std::vector<std::int32_t> types(tokens.size(), 1);
  for (std::size_t id = 0; id < 259; ++id) types[id] = id == 0 ? 2 : id < 3 ? 3 : 6;
  std::vector<float> scores(tokens.size(), 0);
  const auto replace = [&](std::size_t id, const char* token, std::int32_t type, float score) {
    tokens[id] = token;
    types[id] = type;
    scores[id] = score;
  };
  replace(259, "  ", 4, -1000);
  replace(260, "   ", 4, -1000);
  replace(261, "\n\n", 4, -1000);
  replace(262, "▁t", 1, -1);
  replace(269, "\n", 4, -1000);
  return builder.set("tokenizer.ggml.tokens", tokens)
      .set("tokenizer.ggml.token_type", types)
      .set("tokenizer.ggml.scores", scores)
      .set("tokenizer.ggml.add_space_prefix", false);
}

TEST(ImportGgufTokenizer, UserDefinedBlanksAreMadeByTheFirstMerges) {
  const Json json = Json::parse(tokenizer_of(gemma_model()).tokenizer_json);
  EXPECT_EQ(json["model"]["vocab"]["▁▁"], 259);
  EXPECT_FALSE(json["model"]["vocab"].contains("  "));
  EXPECT_EQ(json["model"]["merges"], Json::parse(R"(["▁ ▁", "▁▁ ▁", "▁ ▁▁", "\n \n", "▁ t"])"));
  EXPECT_EQ(json["added_tokens"][3]["content"], "▁▁");
  EXPECT_THAT(tokens_of(gemma_model(), "t t  t"), ElementsAre("<s>", "t", "▁t", "▁▁", "t"));
  EXPECT_THAT(tokens_of(gemma_model(), "     t"), ElementsAre("<s>", "▁▁", "▁▁▁", "t"));  // 2 2 1, 2 3
  EXPECT_THAT(tokens_of(gemma_model(), "t\n\n\n"), ElementsAre("<s>", "t", "\n\n", "\n"));
  EXPECT_EQ(decoded(gemma_model(), "  t \n\n   "), "<s>  t \n\n   ");
}

TEST(ImportGgufTokenizer, RespelledBlanksAreStillDifferentTokens) {
  GgufBuilder builder = gemma_model();
  const gguf_test::ParsedGguf file(builder.build());
  const auto& known = *file->strings("tokenizer.ggml.tokens");
  std::vector<std::string> tokens(known.begin(), known.end());
  tokens[262] = "▁▁";
  builder.set("tokenizer.ggml.tokens", tokens);
  EXPECT_THAT(refusal(builder), HasSubstr("tokens 259 and 262 are both \"▁▁\""));
}

TEST(ImportGgufTokenizer, RefusesByNameWhatItCannotExpress) {
  struct Case {
    std::function<void(GgufBuilder&)> edit;
    std::string message;
  };
  const auto u32 = [](std::uint32_t value) { return value; };
  const std::vector<Case> cases = {
      {[](auto& b) { b.remove("tokenizer.ggml.model"); }, "no \"tokenizer.ggml.model\"...\"gpt2\""},
      {[](auto& b) { b.set("tokenizer.ggml.model", "t5"); }, "tokenizer.ggml.model...\"t5\"...\"gpt2\"...\"llama\""},
      {[](auto& b) { b.remove("tokenizer.ggml.pre"); }, "no \"tokenizer.ggml.pre\""},
      {[](auto& b) { b.set("tokenizer.ggml.pre", "tekken"); },
       "tokenizer.ggml.pre...\"tekken\"...smollm, llama-bpe, qwen2, gpt-2 and default"},
      {[](auto& b) { b.set("tokenizer.ggml.pre", "llama-3"); },
       "tokenizer.ggml.pre...\"llama-3\"...nearest name is llama3...original files"},
      {[](auto& b) { b.set("tokenizer.ggml.add_space_prefix", true); }, "add_space_prefix\" is true"},
      {[](auto& b) { b.set("tokenizer.ggml.add_sep_token", true); }, "add_sep_token\" is true"},
      {[](auto& b) { b.set("tokenizer.ggml.remove_extra_whitespaces", true); }, "remove_extra_whitespaces\" is true"},
      {[](auto& b) { b.set("tokenizer.ggml.precompiled_charsmap", std::vector<std::uint8_t>{1}); },
       "precompiled_charsmap\" is not empty"},
      {[](auto& b) { b.set("tokenizer.ggml.lowercase", true); }, "\"tokenizer.ggml.lowercase\"...not known"},
      {[](auto& b) { b.remove("tokenizer.ggml.tokens"); }, "has no \"tokenizer.ggml.tokens\""},
      {[](auto& b) { b.remove("tokenizer.ggml.token_type"); }, "has no \"tokenizer.ggml.token_type\""},
      {[](auto& b) { b.set("tokenizer.ggml.token_type", std::vector<std::int32_t>{1}); },
       "has 262 tokens but 1 token types"},
      {[](auto& b) { b.set("tokenizer.ggml.token_type", std::vector<std::int32_t>(262, 7)); },
       "token 0 has the type 7; expected 1 to 6"},
      {[](auto& b) { b.remove("tokenizer.ggml.merges"); }, "has no \"tokenizer.ggml.merges\""},
      {[](auto& b) { b.set("tokenizer.ggml.merges", std::vector<std::string>{"h e", "he"}); },
       "merge 1, \"he\", is not two tokens"},
      {[](auto& b) { b.set("tokenizer.ggml.merges", std::vector<std::string>{"h e r"}); },
       "merge 0, \"h e r\", is not"},
      {[](auto& b) { b.set("tokenizer.ggml.merges", std::vector<std::string>{"h a"}); },
       "merge 0, \"h a\", needs \"ha\""},
      {[u32](auto& b) { b.set("tokenizer.ggml.eos_token_id", u32(265)); },
       "\"tokenizer.ggml.eos_token_id\"...265...262 tokens"},
      {[](auto& b) { b.set("tokenizer.ggml.tokens", std::vector<std::string>(262, "x")); },
       "tokens 0 and 1 are both \"x\""},
      {[](auto& b) { b.set("tokenizer.ggml.tokens", std::vector<std::string>(271, "x")); },
       "271 tokens...\"token_embd.weight\"...270 rows"},
      {[](auto& b) {
         gguf_test::set_sentencepiece_tokenizer(b);
         b.remove("tokenizer.ggml.scores");
       },
       "270 tokens...0 \"tokenizer.ggml.scores\""},
      {[](auto& b) {
         gguf_test::set_sentencepiece_tokenizer(b);
         b.set("tokenizer.ggml.pre", "smollm");
       },
       "tokenizer.ggml.pre...\"smollm\"...SentencePiece...\"default\""},
  };
  for (const Case& c : cases) {
    GgufBuilder builder = tiny_model();
    c.edit(builder);
    EXPECT_THAT(refusal(builder), AllOf(HasSubstr("x.gguf: "), Says(c.message)));
  }
}

}  // namespace
}  // namespace adept::model
