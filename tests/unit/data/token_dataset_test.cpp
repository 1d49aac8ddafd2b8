#include "adept/data/token_dataset.h"

#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "adept/data/text_source.h"
#include "adept/data/token_file.h"
#include "adept/data/tokenize.h"
#include "adept/data/tokenizer/tokenizer.h"
#include "data_test_util.h"
#include "tests/support/files.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
namespace fs = std::filesystem;

void expect_equal(const TokenDataset& a, const TokenDataset& b) {
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  EXPECT_EQ(a.name(), b.name());
  EXPECT_EQ(a.vocab_size(), b.vocab_size());
  EXPECT_EQ(a.info().source_fingerprint, b.info().source_fingerprint);
  EXPECT_EQ(a.info().tokenizer_fingerprint, b.info().tokenizer_fingerprint);
  EXPECT_EQ(a.counts(), b.counts());
  ASSERT_EQ(a.num_documents(), b.num_documents());
  EXPECT_EQ(a.num_tokens(), b.num_tokens());
  for (std::int64_t i = 0; i < a.num_documents(); ++i) {
    EXPECT_EQ(test::document_ids(a, i), test::document_ids(b, i)) << i;
    EXPECT_EQ(a.last_token(i), b.last_token(i)) << i;
    EXPECT_EQ(a.document_bytes(i), b.document_bytes(i)) << i;
  }
}

std::string many_lines(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i)
    lines += "{\"text\": \"" +
             std::string(random_bits(3, RandomStream::kSampling, static_cast<std::uint64_t>(i)) % 60,
                         static_cast<char>('a' + i % 26)) +
             "\"}\n";
  return lines;
}

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

TEST(TokenDataset, IsTheSameWithAnyNumberOfThreadsInMemoryAndInAFile) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl.gz", many_lines(3000))}};
  const TokenDataset one = tokenize(source, byte_encoder(), {.num_threads = 1});
  EXPECT_GT(one.num_documents(), 2000);
  EXPECT_GT(one.counts().skipped.at("empty text"), 10);
  for (const int num_threads : {0, 2, 7})
    for (const std::size_t chunk_bytes : {1, 500, 1 << 20}) {
      expect_equal(tokenize(source, byte_encoder(), {.num_threads = num_threads, .chunk_bytes = chunk_bytes}), one);
      expect_equal(tokenize_to_file(folder / "tokens", source, byte_encoder(),
                                    {.num_threads = num_threads, .chunk_bytes = chunk_bytes}),
                   one);
    }
  expect_equal(TokenDataset::open(folder / "tokens"), one);
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
                  [&] { tokenize_to_file(folder / "tokens", {.name = "s", .paths = {path}}, failing, options); }),
              path + ":1: no such luck");
  }
  EXPECT_FALSE(fs::exists(folder / "tokens")) << "a failure leaves no file";
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1) << "and no temporary one";
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
  const auto dataset = tokenize_to_file(folder / "tokens", source, byte_encoder(), {.num_threads = 2});
  ASSERT_EQ(dataset.num_documents(), 3);
  EXPECT_EQ(dataset.document_tokens(0), 5);
  EXPECT_EQ(dataset.document_tokens(1), std::ssize(text));
  EXPECT_EQ(dataset.last_token(2), 't');
  EXPECT_EQ(dataset.document_bytes(1), static_cast<std::int64_t>(text.size()));
}

TEST(TokenDataset, OfNoDocumentsIsEmptyAndCanBeStored) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl", "\n")}};
  const TokenDataset dataset = tokenize_to_file(folder / "tokens", source, byte_encoder());
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

TEST(TokenFile, RoundTripsAndOutlivesItsName) {
  const TemporaryFolder folder;
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{3, 1, 4}, {2}, {1, 1, 1, 700'000}}) {
    const TokenDataset dataset = counting_dataset("s", lengths);
    write_token_file(folder / "tokens", dataset);
    const TokenDataset read = TokenDataset::open(folder / "tokens");
    fs::remove(folder / "tokens");
    expect_equal(read, dataset);
  }
}

TEST(TokenFile, RefusesEveryTruncationAndEveryFlippedByte) {
  const TemporaryFolder folder;
  write_token_file(folder / "good", counting_dataset("s", {3, 1, 5}));
  const std::string good = adept::test::read_file(folder / "good");
  ASSERT_LT(good.size(), 2000u);
  const auto path = folder.write("bad", good);
  for (std::size_t at = 0; at < good.size(); ++at) {
    if (at >= 16 + 36 && at < 16 + 40) continue;  // the padding after an odd number of tokens means nothing
    const auto put = [&](char c) { std::fstream(path).seekp(static_cast<std::streamoff>(at)).put(c); };
    for (const int bit : {0, 3, 7}) {
      put(static_cast<char>(good[at] ^ (1 << bit)));
      EXPECT_THAT(message_of<DataError>([&] { TokenDataset::open(path); }), HasSubstr(path)) << at << " " << bit;
    }
    put(good[at]);
  }
  EXPECT_EQ(adept::test::read_file(path), good);
  for (std::size_t size = good.size(); size-- > 0;) {
    fs::resize_file(path, size);
    EXPECT_THAT(message_of<DataError>([&] { TokenDataset::open(path); }), HasSubstr(path)) << size;
  }
  EXPECT_THROW(TokenDataset::open(folder.write("long", good + "x")), DataError);
  EXPECT_THROW(TokenDataset::open(folder / "none"), DataError);
  EXPECT_THROW(TokenDataset::open(folder.path()), DataError);
}

TEST(TokenFile, SaysWhatIsWrong) {
  const TemporaryFolder folder;
  write_token_file(folder / "good", counting_dataset("s", {3, 1, 5}));
  const std::string good = adept::test::read_file(folder / "good");
  const auto problem = [&](std::string bytes) {
    const auto path = folder.write("bad", bytes);
    return message_of<DataError>([&] { TokenDataset::open(path); });
  };
  EXPECT_THAT(problem("hello"), HasSubstr("too few"));
  EXPECT_THAT(problem(std::string(500, 'x')), HasSubstr("not a token file"));
  EXPECT_THAT(problem(std::string(good).replace(8, 1, "\x02")),
              HasSubstr("format version 2; this build reads version 1"));
  EXPECT_THAT(problem(good.substr(0, good.size() - 8)), HasSubstr("cut short or damaged"));
  EXPECT_THAT(problem(std::string(good).replace(16, 1, "\x09")), HasSubstr("tokens do not match their checksum"));
  // Sizes that would overflow a sum.
  for (const std::size_t field : {64, 56, 48})
    EXPECT_THAT(problem(std::string(good).replace(good.size() - field, 8, std::string(8, '\xFF'))),
                HasSubstr("do not match the sizes"));
  // 2^60 documents more are 2^64 bytes more: nothing, in arithmetic that wraps around.
  std::string wrapped = good;
  wrapped[good.size() - 64 + 7] = static_cast<char>(wrapped[good.size() - 64 + 7] | 0x10);
  EXPECT_THAT(problem(wrapped), HasSubstr("do not match the sizes"));
}

// A file with right checksums can still lie; nothing of it may be believed unchecked.
TEST(TokenFile, RefusesLiesWithRightChecksums) {
  const TemporaryFolder folder;
  class Liar : public FileSink {
   public:
    using FileSink::FileSink;
  };
  const auto finish = [&](std::vector<std::int32_t> ids, std::int64_t bytes, std::int64_t vocab_size) {
    Liar sink(folder / "lie");
    sink.add(ids, bytes);
    return message_of<DataError>([&] { sink.finish({.name = "s", .vocab_size = vocab_size}); });
  };
  EXPECT_THAT(finish({1, 9}, 1, 9), HasSubstr("the id 9, outside its vocabulary of 9 ids"));
  EXPECT_THAT(finish({-2}, 1, 9), HasSubstr("the id -2"));
  EXPECT_THAT(finish({1}, -5, 9), AnyOf(HasSubstr("-5 bytes"), HasSubstr("not a count")));
  EXPECT_THAT(finish({}, 1, 9), HasSubstr("empty or ends before"));
  EXPECT_THAT(finish({1}, 1, 0), HasSubstr("positive vocab_size"));
}

TEST(TokenFile, CannotBeWrittenWhereThereIsNoFolder) {
  EXPECT_THROW(write_token_file("/nonexistent/folder/tokens", counting_dataset("s", {3})), DataError);
}

}  // namespace
}  // namespace adept::data
