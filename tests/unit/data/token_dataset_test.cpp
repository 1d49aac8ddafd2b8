#include "adept/data/token_dataset.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "adept/data/text_source.h"
#include "adept/data/tokenize.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
namespace fs = std::filesystem;

TEST(TokenDataset, HoldsTheDocumentsOfASource) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s",
                          .paths = {folder.write("a.jsonl", "{\"text\":\"ab\"}\n\n{\"text\":\"\u00e9\"}\n")}};
  const TokenDataset dataset = tokenize(source, byte_encoder());
  ASSERT_EQ(dataset.num_documents(), 2);
  EXPECT_THAT(test::document_ids(dataset, 0), ElementsAre('a', 'b'));
  EXPECT_THAT(test::document_ids(dataset, 1), ElementsAre(0xC3, 0xA9));
  EXPECT_EQ(dataset.document_bytes(1), 2);
  EXPECT_EQ(dataset.num_tokens(), 4);
  EXPECT_EQ(dataset.counts().tokens, 4);
  EXPECT_EQ(dataset.counts().documents, 2);
  EXPECT_THAT(dataset.counts().skipped, ElementsAre(Pair("blank line", 1)));
  EXPECT_EQ(dataset.info().source_fingerprint, source_fingerprint(source));
  EXPECT_EQ(dataset.info().tokenizer_fingerprint, "bytes");
}

TEST(TokenDataset, ReadsAnyPartOfADocument) {
  const TokenDataset dataset = counting_dataset("s", {3, 1, 5});
  std::vector<std::int32_t> part(3);
  dataset.read(2, 1, part);
  EXPECT_THAT(part, ElementsAre(6, 7, 8));
  dataset.read(2, 5, {});
  EXPECT_THROW(dataset.read(2, 3, part), InternalError) << "past the end";
  EXPECT_THROW(dataset.read(2, -1, part), InternalError);
}

TEST(TokenDataset, IsTheSameWithAnyNumberOfThreadsInMemoryAndInAStore) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl.gz", many_lines(3000))}};
  const TokenDataset one = tokenize(source, byte_encoder(), {.num_threads = 1});
  EXPECT_GT(one.num_documents(), 2000);
  EXPECT_GT(one.counts().skipped.at("empty text"), 10);
  for (const int num_threads : {0, 2, 7})
    for (const std::size_t chunk_bytes : {1, 500, 1 << 20}) {
      expect_equal(tokenize(source, byte_encoder(), {.num_threads = num_threads, .chunk_bytes = chunk_bytes}), one);
      expect_equal(tokenize_to_store(folder / fmt::format("{} {}", num_threads, chunk_bytes), source, byte_encoder(),
                                     {.num_threads = num_threads, .chunk_bytes = chunk_bytes}),
                   one);
    }
}

// A tokenizer of the letters a and b that puts BOS in front of every text.
constexpr const char* kTokenizer = R"({
  "version": "1.0", "added_tokens": [
    {"id": 3, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
     "normalized": false}],
  "normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
    "use_regex": false},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})";

TEST(TokenDataset, HoldsExactlyTheIdsThatTheTokenizerGives) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = Tokenizer::from_file(folder.write("tokenizer.json", kTokenizer));
  const TextSource source{.name = "s", .paths = {folder.write("a.txt", "abba\nb")}, .txt_record = TxtRecord::kLine};
  const TokenDataset dataset = tokenize(source, make_text_encoder(tokenizer));
  EXPECT_THAT(test::document_ids(dataset, 0), ElementsAre(3, 2, 1, 0));
  EXPECT_THAT(test::document_ids(dataset, 1), ElementsAre(3, 1));
  EXPECT_EQ(dataset.vocab_size(), 4);
  EXPECT_EQ(dataset.info().tokenizer_fingerprint, tokenizer.fingerprint());
  EXPECT_THAT(message_of<DataError>([&] { tokenize(source, make_text_encoder(tokenizer, 3)); }),
              HasSubstr("the id 3, but the model's vocabulary has 3 ids"));
}

TEST(TokenDataset, CountsDocumentsWithoutTokens) {
  const TemporaryFolder folder;
  TextEncoder encoder = byte_encoder();
  encoder.encode =
      handing_over([](std::string_view text) { return text == "drop" ? std::vector<std::int32_t>() : bytes_of(text); });
  const TextSource source{
      .name = "s", .paths = {folder.write("a.txt", "keep\ndrop\nkeep")}, .txt_record = TxtRecord::kLine};
  const TokenDataset dataset = tokenize(source, encoder);
  EXPECT_EQ(dataset.num_documents(), 2);
  EXPECT_EQ(dataset.counts().documents, 2);
  EXPECT_EQ(dataset.counts().bytes, 8);
  EXPECT_THAT(dataset.counts().skipped, ElementsAre(Pair("no tokens", 1)));
}

TEST(TokenDataset, RefusesIdsOutsideTheVocabulary) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.txt", "abc\nabz\n");
  TextEncoder encoder = byte_encoder();
  encoder.vocab_size = 'z';
  const TextSource source{.name = "s", .paths = {path}, .txt_record = TxtRecord::kLine};
  EXPECT_THAT(message_of<DataError>([&] { tokenize(source, encoder, {.num_threads = 3}); }),
              AllOf(HasSubstr(path + ":2"), HasSubstr("the id 122"), HasSubstr("122 ids")));
  encoder.token_of = [](std::int32_t id) { return std::string(1, static_cast<char>(id)); };
  EXPECT_THAT(message_of<DataError>([&] { tokenize(source, encoder); }), HasSubstr("The token is \"z\"."));
  const std::vector<std::vector<std::int32_t>> documents = {{1, -1}};
  const std::vector<std::int64_t> bytes = {2};
  EXPECT_THROW(TokenDataset({.name = "s", .vocab_size = 5}, documents, bytes), DataError);
}

TEST(TokenDataset, PassesOnTheErrorsOfReaderAndTokenizer) {
  const TemporaryFolder folder;
  const auto path = folder.write("a.jsonl", many_lines(500) + "{\"text\": 3}\n" + many_lines(500));
  for (const int num_threads : {1, 4}) {
    const TokenizeOptions options{.num_threads = num_threads, .chunk_bytes = 100};
    EXPECT_THAT(message_of<DataError>([&] { tokenize({.name = "s", .paths = {path}}, byte_encoder(), options); }),
                HasSubstr(path + ":501: field not a string"));
    TextEncoder failing = byte_encoder();
    failing.encode = [](std::string_view, IdSink) { throw DataError("no such luck"); };
    EXPECT_EQ(message_of<DataError>(
                  [&] { tokenize_to_store(folder / "tokens", {.name = "s", .paths = {path}}, failing, options); }),
              path + ":1: no such luck");
  }
  EXPECT_FALSE(fs::exists(folder / "tokens")) << "a failure leaves no store";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "and no temporary file";
  EXPECT_THROW(tokenize({.name = "s", .paths = {path}}, byte_encoder(), {.num_threads = -1}), ConfigError);
}

TEST(TokenDataset, KeepsFewTextsInFlight) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s",
                          .paths = {folder.write("a.jsonl", "{\"text\": \"first\"}\n" + many_lines(2000))}};
  std::atomic<int> encoded = 0, ahead = 0;
  TextEncoder slow_first = byte_encoder();
  slow_first.encode = handing_over([&](std::string_view text) {
    ++encoded;
    if (text == "first") {
      // While the first document holds up the order, the others must not run ahead without bound.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      ahead = encoded.load();
    }
    return bytes_of(text);
  });
  tokenize(source, slow_first, {.num_threads = 2, .chunk_bytes = 1});
  EXPECT_LE(ahead, 5) << "two chunks of one document a thread, and one";
}

TEST(TokenDataset, ALongDocumentIsOneAmongOthers) {
  const TemporaryFolder folder;
  const std::string text(std::size_t{33} << 20, 'x');
  const TextSource source{
      .name = "s",
      .paths = {folder.write("a.txt", "first"), folder.write("b.txt", text), folder.write("c.txt", "last")}};
  const auto dataset = tokenize_to_store(folder / "tokens", source, byte_encoder(), {.num_threads = 2});
  ASSERT_EQ(dataset.num_documents(), 3);
  EXPECT_EQ(dataset.document_tokens(0), 5);
  EXPECT_EQ(dataset.document_tokens(1), std::ssize(text));
  EXPECT_EQ(dataset.last_token(2), 't');
  EXPECT_EQ(dataset.document_bytes(1), static_cast<std::int64_t>(text.size()));
}

TEST(TokenDataset, OfNoDocumentsIsEmptyAndCanBeStored) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl", "\n")}};
  const TokenDataset dataset = tokenize_to_store(folder / "tokens", source, byte_encoder());
  EXPECT_EQ(dataset.num_documents(), 0);
  EXPECT_EQ(dataset.num_tokens(), 0);
  expect_equal(dataset, tokenize(source, byte_encoder()));
}

TEST(TokenDataset, FingerprintFollowsIdsAndBoundaries) {
  const auto fingerprint = [](const std::vector<std::vector<std::int32_t>>& documents) {
    const std::vector<std::int64_t> bytes(documents.size(), 1);
    return TokenDataset({.name = "s", .vocab_size = 10}, documents, bytes).fingerprint();
  };
  EXPECT_EQ(fingerprint({{1, 2}, {3}}), fingerprint({{1, 2}, {3}}));
  EXPECT_NE(fingerprint({{1, 2}, {3}}), fingerprint({{1}, {2, 3}}));
  EXPECT_NE(fingerprint({{1, 2}, {3}}), fingerprint({{1, 2}, {4}}));
}

}  // namespace
}  // namespace adept::data
