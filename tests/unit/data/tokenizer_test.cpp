#include "adept/data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/data/tokenizer/special_tokens.h"
#include "tests/support/reads.h"
#include "tests/support/sanitizers.h"

namespace adept::data {
namespace {

using adept::test::Says;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TokenizerTest : public ::testing::Test {
 protected:
  TokenizerTest()
      : dir_(std::filesystem::temp_directory_path() /
             ("adept_tokenizer_" + std::to_string(::getpid()) + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(dir_);
  }
  ~TokenizerTest() override { std::filesystem::remove_all(dir_); }

  void write(const std::string& name, const std::string& text) { std::ofstream(dir_ / name) << text; }
  Tokenizer load(const Json& json) {
    write("tokenizer.json", json.dump());
    return Tokenizer::from_model_dir(dir_);
  }
  std::string failure(const std::string& text) {
    write("tokenizer.json", text);
    try {
      Tokenizer::from_model_dir(dir_);
    } catch (const DataError& error) {
      return error.what();
    }
    return "accepted";
  }
  // What loading says once `change` is merged into a working file.
  std::string failure_with(const char* change) {
    Json json = small();
    json.merge_patch(Json::parse(change));
    return failure(json.dump());
  }

  // a b c and their merges; the characters of SentencePiece; one special token.
  static Json small() {
    return Json::parse(R"({
      "version": "1.0", "truncation": null, "padding": null,
      "added_tokens": [{"id": 9, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}],
      "normalizer": null, "pre_tokenizer": null, "decoder": {"type": "Fuse"},
      "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                         {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
                         "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4, "abc": 5, "aa": 6, "<0xC3>": 7,
                "<0xA9>": 8, "<s>": 9}, "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["a", "a"]]}})");
  }

  std::filesystem::path dir_;
};

TEST_F(TokenizerTest, MergesTheLowestRankFirstAndTheLeftmostOfEqualOnes) {
  const Tokenizer tokenizer = load(small());
  EXPECT_THAT(tokenizer.encode("abc", false), ElementsAre(5));  // b c before a b, then a bc
  EXPECT_THAT(tokenizer.encode("ab", false), ElementsAre(3));
  EXPECT_THAT(tokenizer.encode("aaa", false), ElementsAre(6, 0));
  EXPECT_THAT(tokenizer.encode("aabcab", false), ElementsAre(0, 5, 3));
  EXPECT_THAT(tokenizer.encode("", false), ElementsAre());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("aabcab", false)), "aabcab");
}

TEST_F(TokenizerTest, LongAndShortPiecesMergeAlike) {
  const Tokenizer tokenizer = load(small());
  std::vector<std::int32_t> expected;
  std::string text;
  for (int i = 0; i < 40; ++i) {  // beyond the length where a heap takes over
    text += "aabcab";
    expected.insert(expected.end(), {0, 5, 3});
    EXPECT_EQ(tokenizer.encode(text, false), expected) << i;
  }
}

TEST_F(TokenizerTest, AddsSpecialTokensOnRequestAndSkipsThemOnRequest) {
  const Tokenizer tokenizer = load(small());
  EXPECT_THAT(tokenizer.encode("ab"), ElementsAre(9, 3));
  EXPECT_THAT(tokenizer.encode("a<s>b", false), ElementsAre(0, 9, 1));
  const std::vector<std::int32_t> ids = {9, 3, 77};
  EXPECT_EQ(tokenizer.decode(ids), "<s>ab");
  EXPECT_EQ(tokenizer.decode(ids, true), "ab");
  const std::vector<std::int32_t> negative = {3, -100};
  EXPECT_THROW(tokenizer.decode(negative), DataError);
}

TEST_F(TokenizerTest, UnknownCharactersAreDroppedWithoutAnUnknownToken) {
  EXPECT_THAT(load(small()).encode("a\u00e9b", false), ElementsAre(3)) << "what stands around it is merged";
  Json json = small();
  json["model"]["byte_fallback"] = true;
  EXPECT_THAT(load(json).encode("a\u00e9b", false), ElementsAre(0, 7, 8, 1));
  json["model"]["unk_token"] = "<s>";
  EXPECT_THAT(load(json).encode("x\u00e9yx", false), ElementsAre(7, 8, 9, 9, 9)) << "pending unknowns follow the bytes";
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(load(json).encode("x\u00e9yxa", false), ElementsAre(7, 8, 9, 0));
}

TEST_F(TokenizerTest, KnowsItsVocabulary) {
  const Tokenizer tokenizer = load(small());
  EXPECT_EQ(tokenizer.vocab_size(), 10);
  EXPECT_EQ(tokenizer.max_token_id(), 9);
  EXPECT_EQ(tokenizer.token_to_id("abc"), 5);
  EXPECT_EQ(tokenizer.token_to_id("abcd"), std::nullopt);
  EXPECT_EQ(tokenizer.id_to_token(3), "ab");
  EXPECT_EQ(tokenizer.id_to_token(10), std::nullopt);
  EXPECT_THAT(tokenizer.fingerprint(), HasSubstr("xxh3:"));
  EXPECT_EQ(tokenizer.fingerprint(), load(small()).fingerprint());
  Json other = small();
  other["model"]["merges"].erase(0);
  EXPECT_NE(tokenizer.fingerprint(), load(other).fingerprint());
}

TEST_F(TokenizerTest, ThreadsShareOne) {
  Json json = small();
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  const Tokenizer tokenizer = load(json);
  std::vector<std::thread> threads;
  std::vector<std::vector<std::int32_t>> ids(4);
  for (auto& out : ids)
    threads.emplace_back([&tokenizer, &out] {
      for (int i = 0; i < 200; ++i) out = tokenizer.encode(std::string(static_cast<std::size_t>(i), 'a') + " abc");
    });
  for (auto& thread : threads) thread.join();
  for (const auto& out : ids) EXPECT_EQ(out, ids[0]);
  EXPECT_FALSE(ids[0].empty());
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

TEST_F(TokenizerTest, AWordOfAMegabyteIsNotQuadratic) {
  const Tokenizer tokenizer = load(small());
  const auto seconds = [&](std::size_t bytes) {
    double best = 1e9;
    for (int repeat = 0; repeat < 3; ++repeat) {
      std::string word;
      while (word.size() < bytes) word += "aabcabcbaac";
      const double start = thread_seconds();
      EXPECT_GT(tokenizer.encode(word).size(), bytes / 4);
      best = std::min(best, thread_seconds() - start);
    }
    return best;
  };
  // n log n gives about 19, n * n gives 256; the clock is this thread's, whatever else the machine does.
  EXPECT_LT(seconds(test::large(1'000'000)), 80 * seconds(test::large(62'500)));
}

std::string encoding_error(const Tokenizer& tokenizer, const std::string& text) {
  try {
    tokenizer.encode(text);
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

TEST_F(TokenizerTest, ATextCannotGrowWithoutBound) {
  Json json = small();
  const Json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<Json>(40, doubling)}};
  const Tokenizer tokenizer = load(json);
  EXPECT_THAT(tokenizer.encode("bb", false), ElementsAre(1, 1));
  EXPECT_THAT(encoding_error(tokenizer, "a"), Says("tokenizer.json: normalizer.normalizers[20]...64 times longer"));
  std::string pieces;  // each may grow by a megabyte, together they may not
  for (std::size_t i = 0; i < test::large(100'000); ++i) pieces += "<s>aaaaaaaa";
  EXPECT_THAT(encoding_error(tokenizer, pieces), HasSubstr("more than 64 times longer"));
  json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", std::string(1000, 'b')}};
  EXPECT_THAT(encoding_error(load(json), std::string(test::large(1'000'000), 'a')),
              HasSubstr("normalizer makes the text"));
  json["normalizer"] = nullptr;
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::vector<Json>(60, bytes)}};
  EXPECT_THAT(encoding_error(load(json), "\u00e9"), HasSubstr("pre_tokenizer.pretokenizers["));
}

TEST_F(TokenizerTest, APatternHasABudgetForTheWholeText) {
  Json json = small();
  for (const char* pattern : {"x*+y|x", "(?:x|xx)*y|x", "(?:x*y)?x", "x{1,9999}y|x"}) {
    json["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    EXPECT_THAT(encoding_error(load(json), std::string(300'000, 'x')),
                HasSubstr("tokenizer.json: pre_tokenizer.pattern.Regex is \"" + std::string(pattern) + "\": matching"))
        << pattern;
  }
}

TEST_F(TokenizerTest, AddedBlanksThatStripBlanksTakeLinearTime) {
  Json json = small();
  for (const bool left : {true, false}) {
    json["added_tokens"][1] = json["added_tokens"][0];
    json["added_tokens"][1].update({{"content", " "}, {"id", 10}, {"lstrip", left}, {"rstrip", !left}});
    const std::size_t size = test::large(2'000'000);
    EXPECT_EQ(load(json).encode(std::string(size, ' '), false).size(), size);
  }
  json["added_tokens"][1].update({{"content", std::string(4000, 'a') + "b"}, {"rstrip", false}});
  const std::size_t size = test::large(2'000'000);
  EXPECT_GT(load(json).encode(std::string(size, 'a'), false).size(), size / 4);
}

TEST_F(TokenizerTest, MarksAreOrderedInLinearTime) {
  Json json = small();
  json["model"]["vocab"].update({{"e", 10}, {"\u0323", 11}, {"\u0301", 12}});
  std::string marks = "e";
  std::vector<std::int32_t> expected = {10};
  const std::size_t half = test::large(500'000);
  for (std::size_t i = 0; i < half; ++i) marks += "\u0301\u0323";  // above, below
  expected.insert(expected.end(), half, 11);
  expected.insert(expected.end(), half, 12);
  for (const char* form : {"NFD", "NFKD", "NFC"}) {
    json["normalizer"] = {{"type", form}};
    if (form == std::string("NFC")) {  // joined with the first of each, where there is such a character
      json["model"]["vocab"].update({{"\u1EB9", 13}});
      expected.erase(expected.begin());
      expected.front() = 13;
    }
    EXPECT_EQ(load(json).encode(marks, false), expected) << form;
  }
}

TEST_F(TokenizerTest, PartsAreFewEnoughToBeNested) {
  Json json = small();
  const Json split = {{"type", "WhitespaceSplit"}}, lower = {{"type", "Lowercase"}}, fuse = {{"type", "Fuse"}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::vector<Json>(255, split)}};
  EXPECT_THAT(load(json).encode("ab", false), ElementsAre(3));
  json["pre_tokenizer"]["pretokenizers"] = std::vector<Json>(100'000, split);
  EXPECT_THAT(failure(json.dump()), HasSubstr("tokenizer.json: pre_tokenizer has 100001 parts; expected at most 256"));
  json["pre_tokenizer"] = nullptr;
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<Json>(256, lower)}};
  EXPECT_THAT(failure(json.dump()), HasSubstr("normalizer has 257 parts"));
  json["normalizer"] = nullptr;
  const Json inner = {{"type", "Sequence"}, {"decoders", std::vector<Json>(15, fuse)}};
  json["decoder"] = {{"type", "Sequence"}, {"decoders", std::vector<Json>(16, inner)}};
  EXPECT_THAT(failure(json.dump()), HasSubstr("decoder has 257 parts"));
}

TEST_F(TokenizerTest, PiecesLongerThanAWindowMergeAsOneText) {
  const Tokenizer tokenizer = load(small());
  std::vector<std::int32_t> expected;
  std::string text;
  for (int i = 0; i < 40'000; ++i) {
    text += "aabcab";
    expected.insert(expected.end(), {0, 5, 3});
  }
  EXPECT_EQ(tokenizer.encode(text, false), expected);
  expected.assign(100'000, 6);
  expected.push_back(0);
  EXPECT_EQ(tokenizer.encode(std::string(200'001, 'a'), false), expected);
}

TEST_F(TokenizerTest, FilesBesideItAddTokensOrAreRefusedByName) {
  const Json json = small();
  const Tokenizer plain = load(json);
  write("added_tokens.json", R"({"<x>": 10})");
  const Tokenizer more = load(json);
  EXPECT_THAT(more.encode("a<x>", false), ElementsAre(0, 10));
  EXPECT_NE(more.fingerprint(), plain.fingerprint()) << "other ids";
  write("tokenizer_config.json",
        R"({"added_tokens_decoder": {"9": {"content": "<s>", "rstrip": true, "special": true}}})");
  const Tokenizer changed = load(json);
  EXPECT_THAT(changed.encode("<s>  a<x>", false), ElementsAre(9, 0)) << "added_tokens.json does not count then";
  EXPECT_NE(changed.fingerprint(), plain.fingerprint());
  write("tokenizer_config.json", R"({"added_tokens_decoder": {}, "eos_token": "<s>"})");
  EXPECT_EQ(load(json).fingerprint(), plain.fingerprint()) << "nothing that changes ids";
  for (const auto& [config, reason] : std::vector<std::pair<const char*, const char*>>{
           {R"([])", "tokenizer_config.json: expected an object"},
           {R"({"eos_token": 3})", "tokenizer_config.json: eos_token is \"3\"; expected "},
           {R"({"eos_token": {"lstrip": true}})", "tokenizer_config.json: eos_token is an object"},
           {R"({"eos_token": {"content": "x", "lstrip": 1}})", "eos_token.lstrip is \"1\"; expected true or false"},
           {R"({"added_tokens_decoder": []})", "tokenizer_config.json: added_tokens_decoder is an array of 0"},
           {R"({"added_tokens_decoder": {"x": {"content": "x"}}})", "added_tokens_decoder has the key \"x\""},
           {R"({"added_tokens_decoder": {"3": "x"}})", "added_tokens_decoder.3 is \"x\"; expected an object"},
           {R"({"additional_special_tokens": "x"})", "additional_special_tokens is \"x\"; expected a list of tokens"},
           {R"({"additional_special_tokens": ["x", 3]})", "additional_special_tokens[1] is \"3\""},
           {R"({"split_special_tokens": 1})", "split_special_tokens is \"1\""},
           {R"({"fast_tokenizer_files": ["tokenizer.4.0.0.json"]})", "files is \"tokenizer.4.0.0.json\""}}) {
    write("tokenizer_config.json", config);
    EXPECT_THAT(failure(json.dump()), HasSubstr(reason)) << config;
  }
  std::filesystem::remove(dir_ / "tokenizer_config.json");
  write("added_tokens.json", R"({"<x>": "10"})");
  EXPECT_THAT(failure(json.dump()), HasSubstr("added_tokens.json: \"<x>\" is \"10\"; expected an id"));
  std::filesystem::remove(dir_ / "added_tokens.json");
  std::filesystem::create_symlink("nowhere", dir_ / "special_tokens_map.json");
  EXPECT_THAT(failure(json.dump()), HasSubstr("special_tokens_map.json: is a symbolic link to nowhere"));
}

TEST_F(TokenizerTest, FaultyFilesAreRefusedByName) {
  for (
      const auto& [change, reason] : std::vector<std::pair<const char*, std::string>>{
          {R"({"version": "2.0"})", "tokenizer.json: version is \"2.0\"; this build supports 1.0"},
          {R"({"model": {"type": "Unigram"}})", "model.type is \"Unigram\"; this build supports BPE"},
          {R"({"model": {"dropout": 0.1}})", "model.dropout is 0.1"},
          {R"({"model": {"surprise": 1}})", "model has the key \"surprise\""},
          {R"({"surprise": 1})", "has the key \"surprise\""},
          {R"({"model": {"vocab": null}})", "model.vocab is missing"},
          {R"({"model": {"merges": null}})", "model.merges is missing"},
          {R"({"model": null})", "model is missing"},
          {R"({"model": {"vocab": {"x": -1}}})", "gives \"x\" the id -1"},
          {R"({"model": {"vocab": {"x": 1.5}}})", "gives \"x\" the id 1.5"},
          {R"({"model": {"vocab": {"x": 4294967296}}})",
           "gives \"x\" the id 4294967296; expected an integer from 0 to 16777215"},
          {R"({"model": {"vocab": {"x": 18446744073709551615}}})", "gives \"x\" the id 18446744073709551615"},
          {R"({"model": {"vocab": {"x": 3}}})", "gives the id 3 to both \"ab\" and \"x\""},
          {R"({"model": {"merges": ["b c", "a x"]}})", "model.merges[1] requires the token \"x\""},
          {R"({"model": {"merges": ["c b"]}})", "model.merges[0] requires the token \"cb\""},
          {R"({"model": {"merges": ["b c", "a"]}})",
           "model.merges[1] is \"a\"; expected two tokens separated by one space"},
          {R"({"model": {"merges": ["b c", ["a", "b"]]}})", "model.merges[1] is not a string"},
          {R"({"model": {"merges": [["a", "b", "c"]]}})", "model.merges[0] is not a pair"},
          {R"({"model": {"merges": {}}})", "model.merges is an object; expected an array"},
          {R"({"model": {"byte_fallback": 1}})", "model.byte_fallback is 1; expected true or false"},
          {R"({"normalizer": {"type": "Precompiled"}})", "normalizer.type...\"Precompiled\"...ByteLevel, Lowercase"},
          {R"({"normalizer": {"type": "NFC", "form": 1}})", "normalizer has the key \"form\""},
          {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]}})",
           "normalizer.normalizers[1].type is \"Nmt\""},
          {R"({"pre_tokenizer": {"type": "Whitespace"}})", "pre_tokenizer.type...\"Whitespace\"...ByteLevel, Digits"},
          {R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\p{Han}"}, "behavior": "Isolated", "invert": false}})",
           "pre_tokenizer.pattern.Regex is \"\\\\p{Han}\""},
          {R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Glued", "invert": false}})",
           "pre_tokenizer.behavior is \"Glued\""},
          {R"({"pre_tokenizer": {"type": "Split", "pattern": {}, "behavior": "Removed", "invert": false}})",
           "expected either \"String\" or \"Regex\""},
          {R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}})",
           "pre_tokenizer.replacement is \"__\"; expected a string of one character"},
          {R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "add_prefix_space": false, "prepend_scheme": "first"}})",
           "add_prefix_space is false but prepend_scheme"},
          {R"({"pre_tokenizer": {"type": "ByteLevel"}})", "pre_tokenizer.add_prefix_space is missing"},
          {R"({"decoder": {"type": "CTC"}})", "decoder.type is \"CTC\"; this build supports BPEDecoder"},
          {R"({"post_processor": {"type": "Other"}})", "post_processor.type is \"Other\""},
          {R"({"post_processor": {"special_tokens": {"<s>": {"ids": [99]}}}})",
           "post_processor adds the id 99, which no token has"},
          {R"({"post_processor": {"single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}]}})",
           "is \"<x>\", which special_tokens does not have"},
          {R"({"post_processor": {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}})",
           "is \"B\"; this build supports A"},
          {R"({"added_tokens": [{"id": 9, "content": "<s>"}]})", "added_tokens[0].single_word is missing"},
          {R"({"added_tokens": 3})", "added_tokens is 3; expected an array"}}) {
    const std::string message = failure_with(change);
    EXPECT_THAT(message, Says(reason)) << change;
    EXPECT_THAT(message, HasSubstr("tokenizer.json")) << change;
  }
}

TEST_F(TokenizerTest, AddedTokensThatCannotBeTellApartAreRefused) {
  Json json = small();
  Json token = json["added_tokens"][0];
  token["normalized"] = true;
  for (const char* content : {"Ab", "aB"}) {
    token["content"] = content;
    json["added_tokens"].push_back(token);
  }
  json["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(failure(json.dump()), HasSubstr("added_tokens has \"Ab\" and \"aB\", which are the same text after"));
  json["added_tokens"][2]["content"] = std::string(5000, 'x');
  EXPECT_THAT(failure(json.dump()), HasSubstr("added_tokens[2].content is longer than 4096 bytes"));
  json["added_tokens"][2]["content"] = " ";
  json["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  EXPECT_THAT(failure(json.dump()), HasSubstr("added_tokens[2].content is empty after normalization"));
}

TEST_F(TokenizerTest, TextThatIsNoTokenizerIsRefused) {
  EXPECT_THAT(failure(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(failure("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(failure("{}"), HasSubstr("model is missing"));
  EXPECT_THAT(failure(R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})"), HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(failure("{\"model\": \"\xff\"}"), HasSubstr("not valid JSON"));
  const std::string whole = small().dump();
  for (std::size_t cut = 0; cut < whole.size(); cut += 7)
    EXPECT_THAT(failure(whole.substr(0, cut)), HasSubstr("tokenizer.json")) << cut;
  std::filesystem::remove(dir_ / "tokenizer.json");
  try {
    Tokenizer::from_model_dir(dir_);
    FAIL() << "expected an error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json: no such file"));
  }
}

TEST_F(TokenizerTest, SpecialTokensComeFromTheFirstFileThatHasThem) {
  const Tokenizer tokenizer = load(small());
  const auto id_of = [&](const char* role) { return load_special_token(dir_, tokenizer, role); };
  EXPECT_EQ(id_of("eos"), std::nullopt);
  write("config.json", R"({"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": null})");
  EXPECT_EQ(id_of("bos"), 1);
  EXPECT_EQ(id_of("eos"), 2) << "the first of a list";
  EXPECT_EQ(id_of("pad"), std::nullopt);
  write("generation_config.json", R"({"eos_token_id": 3, "pad_token_id": 4})");
  EXPECT_EQ(id_of("bos"), 1);
  EXPECT_EQ(id_of("eos"), 3);
  EXPECT_EQ(id_of("pad"), 4);
  write("tokenizer_config.json", R"({"eos_token": {"content": "<s>", "lstrip": false}, "bos_token": null})");
  EXPECT_EQ(id_of("eos"), 9);
  EXPECT_EQ(id_of("bos"), std::nullopt) << "null decides too";
  EXPECT_EQ(id_of("pad"), 4);
  write("special_tokens_map.json", R"({"eos_token": "abc"})");
  EXPECT_EQ(id_of("eos"), 5) << "replaces the key of tokenizer_config.json";
  write("tokenizer_config.json", R"({"eos_token": "<s>", "added_tokens_decoder": {}})");
  EXPECT_EQ(id_of("eos"), 9) << "does not count beside added_tokens_decoder";
}

TEST_F(TokenizerTest, EveryIdThatEndsATextIsFoundAndNothingElse) {
  EXPECT_THAT(find_end_tokens(dir_), testing::IsEmpty());
  write("config.json", R"({"eos_token_id": 2})");
  write("generation_config.json", R"({"eos_token_id": [5, 3, -1, 99999999999, "x", null]})");
  EXPECT_THAT(find_end_tokens(dir_), testing::ElementsAre(5, 3, 2));
  write("generation_config.json", "{");
  EXPECT_THAT(find_end_tokens(dir_), testing::ElementsAre(2));
  write("config.json", R"({"eos_token_id": {"a": 1}})");
  EXPECT_THAT(find_end_tokens(dir_), testing::IsEmpty());
}

TEST_F(TokenizerTest, ASpecialTokenThatIsAskedForMustExist) {
  const Tokenizer tokenizer = load(small());
  const auto message = [&] {
    try {
      load_special_token(dir_, tokenizer, "eos");
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  write("config.json", R"({"eos_token_id": 10, "pad_token_id": -1})");
  EXPECT_THAT(message(), HasSubstr("config.json: eos_token_id is 10, an id that no token"));
  write("config.json", R"({"eos_token_id": "2"})");
  EXPECT_THAT(message(), HasSubstr("config.json: eos_token_id is \"2\"; expected an integer"));
  write("config.json", R"({"eos_token_id": 2, "pad_token_id": -1, "bos_token_id": "x"})");
  EXPECT_EQ(message(), "accepted") << "the others are not asked for";
  write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  EXPECT_THAT(message(), Says("tokenizer_config.json: eos_token...\"</s>\"...tokenizer.json"));
}

}  // namespace
}  // namespace adept::data
