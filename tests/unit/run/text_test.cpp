// Text of a configuration: the cache of tokens, and sequences for scoring, probing and training.
#include "adept/run/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <optional>
#include <set>

#include "adept/core/error.h"
#include "adept/run/token_cache.h"
#include "tests/support/captured_log.h"
#include "tests/support/document_ids.h"
#include "tests/support/environment.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::run {
namespace {

using test::Says;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

// One id a letter: a 0, b 1 ... z 25, blank 26, newline 27; </s> is 28.
Json letters_tokenizer() {
  Json vocab = Json::object();
  for (int i = 0; i < 26; ++i) vocab[std::string(1, static_cast<char>('a' + i))] = i;
  vocab[" "] = 26;
  vocab["\n"] = 27;
  vocab["</s>"] = 28;
  Json json = Json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
      "added_tokens": [{"id": 28, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true}],
      "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
      "model": {"type": "BPE", "merges": []}})");
  json["model"]["vocab"] = vocab;
  return json;
}

struct Texts {
  test::ScopedVariable shared{"ADEPT_RESULT_CACHE", "off"};
  test::TemporaryDirectory dir;
  data::TextSource source;

  Texts() {
    fs::create_directories(dir / "model");
    test::write_file(dir / "model/config.json", test::config_of_kind("llama").dump());
    test::write_file(dir / "model/tokenizer.json", letters_tokenizer().dump());
    test::write_file(dir / "model/tokenizer_config.json", R"({"eos_token": "</s>"})");
    test::write_file(dir / "text.txt", "abc\nde\nfghi");
    source.name = "letters";
    source.paths = {(dir / "text.txt").string()};
    source.txt_record = data::TxtRecord::kLine;
  }
  TextModel model() const { return load_text_model((dir / "model").string()); }
  fs::path cached() const { return dir / "data/letters.tokens/00000.tokens"; }
  data::TokenDataset tokens() const { return tokenize_source_cached(model(), source, dir / "data"); }
  // Which file is there: another one has another number.
  std::uint64_t inode() const {
    struct stat status = {};
    EXPECT_EQ(stat(cached().c_str(), &status), 0);
    return status.st_ino;
  }
};

// While the old file's number is held by a link, no new file can get it.
template <typename Change>
bool is_made_again(Texts& t, const Change& change) {
  t.tokens();
  fs::remove(t.dir / "link");
  fs::create_hard_link(t.cached(), t.dir / "link");
  const std::uint64_t before = t.inode();
  change();
  const data::TokenDataset found = t.tokens();
  EXPECT_EQ(found.fingerprint(), tokenize_source(t.model(), t.source).fingerprint());
  return t.inode() != before;
}

TEST(TokenCache, KeepsTheSkippedRecordsOfItsText) {
  Texts t;
  const fs::path list = t.dir / "letters.skipped.jsonl";
  const auto write_list = [&] { data::write_skipped(list, t.tokens().info().skipped); };
  write_list();
  EXPECT_FALSE(fs::exists(list));
  test::write_file(t.dir / "text.txt", "abc\n\xff\n\nde\n");
  t.source.on_bad_record = data::BadRecord::kSkip;
  for (int i = 0; i < 2; ++i) {  // the second time from the store
    write_list();
    const Json line = Json::parse(test::read_file(list));
    EXPECT_EQ(line.at("where"), (t.dir / "text.txt").string() + ":2");
    EXPECT_EQ(line.at("reason"), "invalid UTF-8");
    EXPECT_THAT(line.at("found").get<std::string>(), HasSubstr("invalid UTF-8 after"));
    fs::remove(list);
  }
  write_list();
  test::write_file(t.dir / "text.txt", "abc\n");
  write_list();
  EXPECT_FALSE(fs::exists(list)) << "a text without bad records has no list";
}

TEST(TokenCache, HoldsTheIdsOfEachDocument) {
  const Texts t;
  for (const data::TokenDataset& dataset : {t.tokens(), t.tokens(), tokenize_source(t.model(), t.source)}) {
    ASSERT_EQ(dataset.num_documents(), 3);
    EXPECT_THAT(test::document_ids(dataset, 0), ElementsAre(0, 1, 2));
    EXPECT_THAT(test::document_ids(dataset, 1), ElementsAre(3, 4));
    EXPECT_THAT(test::document_ids(dataset, 2), ElementsAre(5, 6, 7, 8));
    EXPECT_EQ(dataset.name(), "letters");
  }
}

TEST(TokenCache, IsKeptWhileTextOptionsAndTokenizerAreTheSame) {
  Texts t;
  EXPECT_FALSE(is_made_again(t, [] {}));
  EXPECT_FALSE(is_made_again(t, [&] {
    fs::rename(t.dir / "text.txt", t.dir / "moved.txt");
    t.source.paths = {(t.dir / "moved.txt").string()};
  })) << "the same file elsewhere";
}

TEST(TokenCache, OfAFileThatWasTouchedIsMadeAgainWithTheSameFingerprint) {
  Texts t;
  const std::string before = t.tokens().fingerprint();
  EXPECT_TRUE(is_made_again(
      t, [&] { fs::last_write_time(t.dir / "text.txt", fs::file_time_type::clock::now() + std::chrono::seconds(5)); }));
  EXPECT_EQ(t.tokens().fingerprint(), before) << "so no later stage is repeated";
}

TEST(TokenCache, IsSharedByRunsOfTheSameTextAndLinkedInEach) {
  Texts t;
  const test::ScopedVariable on("ADEPT_RESULT_CACHE", "on"), cache("XDG_CACHE_HOME", (t.dir / "cache").string());
  std::optional<data::TokenDataset> first = t.tokens();
  EXPECT_TRUE(fs::is_symlink(t.dir / "data/letters.tokens"));
  EXPECT_TRUE(fs::exists(t.cached()));
  t.source.name = "others";
  {
    const data::TokenDataset second = tokenize_source_cached(t.model(), t.source, t.dir / "data");
    EXPECT_EQ(second.fingerprint(), first->fingerprint());
    EXPECT_EQ(second.name(), "others");
  }
  const auto stores = [&] {
    return std::distance(fs::directory_iterator(t.dir / "cache/adept/tokens"), fs::directory_iterator());
  };
  EXPECT_EQ(stores(), 1);
  t.source.txt_record = data::TxtRecord::kFile;
  tokenize_source_cached(t.model(), t.source, t.dir / "data");
  EXPECT_EQ(stores(), 2);
  // Unused for long, it is removed when another one is made, unless a dataset of it is open.
  const fs::path old = fs::read_symlink(t.dir / "data/letters.tokens");
  fs::last_write_time(old, fs::file_time_type::clock::now() - std::chrono::hours(24 * 31));
  test::write_file(t.dir / "text.txt", "another text");
  tokenize_source_cached(t.model(), t.source, t.dir / "data");
  EXPECT_TRUE(fs::exists(old));
  EXPECT_EQ(test::document_ids(*first, 1), (std::vector<std::int32_t>{3, 4}));
  first.reset();
  test::write_file(t.dir / "text.txt", "yet another text");
  tokenize_source_cached(t.model(), t.source, t.dir / "data");
  EXPECT_FALSE(fs::exists(old));
}

TEST(TokenCache, IsMadeAgainWhenTheTextChanges) {
  Texts t;
  EXPECT_TRUE(is_made_again(t, [&] { test::write_file(t.dir / "text.txt", "abc\nde\nfghj"); }));
  EXPECT_THAT(test::document_ids(t.tokens(), 2), ElementsAre(5, 6, 7, 9));
}

TEST(TokenCache, IsMadeAgainWhenAnOptionOfTheSourceChanges) {
  Texts t;
  EXPECT_TRUE(is_made_again(t, [&] { t.source.txt_record = data::TxtRecord::kFile; }));
  EXPECT_EQ(t.tokens().num_documents(), 1);
}

TEST(TokenCache, IsMadeAgainWhenTheTokenizerOrTheVocabularyChanges) {
  Texts t;
  EXPECT_TRUE(is_made_again(t, [&] {
    Json json = letters_tokenizer();
    json["model"]["vocab"]["a"] = 1;
    json["model"]["vocab"]["b"] = 0;
    test::write_file(t.dir / "model/tokenizer.json", json.dump());
  }));
  EXPECT_THAT(test::document_ids(t.tokens(), 0), ElementsAre(1, 0, 2));
  EXPECT_TRUE(is_made_again(t, [&] {
    Json json = test::config_of_kind("llama");
    json["vocab_size"] = 60;
    test::write_file(t.dir / "model/config.json", json.dump());
  }));
  EXPECT_EQ(t.tokens().vocab_size(), 60);
}

TEST(TokenCache, IsMadeAgainWhenTheFileIsDamaged) {
  Texts t;
  EXPECT_TRUE(is_made_again(t, [&] {
    std::string bytes = test::read_file(t.cached());
    bytes[bytes.size() - 1] = static_cast<char>(bytes.back() ^ 1);
    fs::remove(t.cached());
    test::write_file(t.cached(), bytes);
    fs::remove(t.dir / "second");
    fs::create_hard_link(t.cached(), t.dir / "second");
  }));
  EXPECT_THAT(test::document_ids(t.tokens(), 0), ElementsAre(0, 1, 2));
}

TEST(TokenCache, IsCheckedAsAWholeOnRequest) {
  Texts t;
  t.tokens();
  std::string bytes = test::read_file(t.cached());
  bytes[20] = static_cast<char>(bytes[20] ^ 1);  // an id
  test::write_file(t.cached(), bytes);
  EXPECT_NO_THROW(t.tokens());
  const test::CapturedLog log;
  const data::TokenDataset again = tokenize_source_cached(t.model(), t.source, t.dir / "data", Verify::kNow);
  EXPECT_THAT(log.text(), AllOf(HasSubstr("00000.tokens: block 0"), HasSubstr("Tokenizing again.")));
  EXPECT_THAT(test::document_ids(again, 0), ElementsAre(0, 1, 2));
}

TEST(TokenCache, DiscardsAStoreThatIsFoundDamagedWhileItIsRead) {
  const Texts t;
  t.tokens();
  std::string bytes = test::read_file(t.cached());
  bytes[20] = static_cast<char>(bytes[20] ^ 1);
  test::write_file(t.cached(), bytes);
  const data::TokenDataset damaged = t.tokens();
  for (int i = 0; i < 2; ++i) {
    try {
      test::document_ids(damaged, 0);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("00000.tokens: block 0"), HasSubstr("repeat the command")));
    }
  }
  EXPECT_THAT(test::document_ids(t.tokens(), 0), ElementsAre(0, 1, 2));
}

// What is not used is not checked: only packing asks for the EOS token.
TEST(ScoringSequences, OnlyPackedOnesNeedAnEosToken) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"eos_token": null})", "has no EOS token; expected eos_token in tokenizer_config.json"},
      {R"({"eos_token": "<end>"})", ""},  // gets the next id, for which the model has a row
      {R"({"eos_token": "</s>", "pad_token": "<none>", "bos_token": "<none>"})", ""}};
  for (const auto& [settings, message] : kCases) {
    const Texts t;
    test::write_file(t.dir / "model/tokenizer_config.json", settings);
    EXPECT_EQ(scoring_sequences(t.model(), t.tokens(), {}, 8, true).size(), 3) << settings;
    const auto pack = [&] { scoring_sequences(t.model(), t.tokens(), {.packed = true}, 8, true); };
    if (*message == '\0')
      EXPECT_NO_THROW(pack());
    else
      EXPECT_THAT(test::message_of<DataError>(pack), HasSubstr(message));
  }
}

TEST(ScoringSequences, AreDocumentsAloneOrPackedWithEos) {
  const Texts t;
  const data::SequenceSet alone = scoring_sequences(t.model(), t.tokens(), {}, 8, true);
  ASSERT_EQ(alone.size(), 3);
  EXPECT_THAT(alone[1].tokens, ElementsAre(3, 4));
  const data::SequenceSet packed = scoring_sequences(t.model(), t.tokens(), {.packed = true}, 8, true);
  ASSERT_EQ(packed.size(), 2);
  EXPECT_THAT(packed[0].tokens, ElementsAre(0, 1, 2, 28, 3, 4, 28, 5));
  EXPECT_THAT(packed[1].tokens, ElementsAre(6, 7, 8, 28));
  const data::SequenceSet overlapping = scoring_sequences(t.model(), t.tokens(), {.stride = 1}, 3, true);
  EXPECT_EQ(overlapping.counts().targets, 2 + 1 + 3);
  EXPECT_EQ(scoring_sequences(t.model(), t.tokens(), {.max_tokens = 3}, 8, true).size(), 1);
}

data::TokenDataset lengths_of(const std::string& name, const std::vector<std::int64_t>& lengths) {
  std::vector<std::vector<std::int32_t>> documents;
  for (const std::int64_t length : lengths) documents.push_back(test::random_tokens(length, documents.size()));
  const std::vector<std::int64_t> bytes(lengths.size(), 5);
  return data::TokenDataset({.name = name, .vocab_size = 53, .counts = {}}, documents, bytes);
}

TEST(ProbeSequences, TakeEqualSharesOfEverySource) {
  const std::vector<data::TokenDataset> general = {lengths_of("a", {4, 4, 4, 4}), lengths_of("b", {4, 4, 4, 4})};
  const auto shared = probe_sequences(general, 8, 16);
  ASSERT_EQ(shared.size(), 2U);
  EXPECT_EQ(shared[0].lengths(), (std::vector<std::int64_t>{4, 4}));
  EXPECT_EQ(shared[1].lengths(), (std::vector<std::int64_t>{4, 4}));
  EXPECT_EQ(probe_sequences(general, 8, 0)[1].lengths(), (std::vector<std::int64_t>{4, 4, 4, 4})) << "0 is all";
  EXPECT_EQ(probe_sequences(general, 8, 1)[1].size(), 1) << "at least one sequence of each";
  EXPECT_THAT(test::message_of<ConfigError>([&] { probe_sequences(general, 17, 0); }),
              Says("a: found 16 tokens...; expected ...seq_len, which is 17"));
  EXPECT_THAT(test::message_of<ConfigError>(
                  [&] { probe_sequences({lengths_of("long", {40}), lengths_of("short", {4})}, 8, 0); }),
              HasSubstr("short: found 4 tokens in total"))
      << "of several sources each";
  EXPECT_THAT(test::message_of<ConfigError>([] { probe_sequences({}, 8, 0); }),
              HasSubstr("data.general: found no source; expected at least one"));
}

TEST(ToBatches, HoldEverySequenceOnceInRowsOfTheBatchSize) {
  const std::vector<data::TokenDataset> general = {lengths_of("a", {9, 2, 5}), lengths_of("b", {3, 7})};
  const auto batches = to_batches(probe_sequences(general, 10, 0), 2, at::kCPU);
  std::int64_t rows = 0, targets = 0;
  std::vector<std::int64_t> rows_of_source(2);
  for (const auto& [batch, source, weight] : batches) {
    EXPECT_LE(batch.rows(), 2);
    rows += batch.rows();
    targets += batch.num_targets;
    rows_of_source.at(static_cast<std::size_t>(source)) += batch.rows();
  }
  EXPECT_EQ(rows, 5);
  EXPECT_EQ(targets, 8 + 1 + 4 + 2 + 6);
  EXPECT_EQ(rows_of_source, (std::vector<std::int64_t>{3, 2}));
}

TEST(ToRounds, DoubleTheTextOfEachSourceAndHoldItAllOnce) {
  const std::vector<data::TokenDataset> general = {lengths_of("a", std::vector<std::int64_t>(160, 5)),
                                                   lengths_of("b", std::vector<std::int64_t>(96, 7))};
  const auto sets = probe_sequences(general, 16, 0);
  const auto rounds = to_rounds(sets, 8, at::kCPU, /*growing=*/true);
  ASSERT_EQ(rounds.size(), 4U) << "256 sequences: 32, 32, 64, 128";
  const std::vector<std::vector<std::int64_t>> expected = {{20, 12}, {20, 12}, {40, 24}, {80, 48}};
  std::multiset<std::vector<std::int64_t>> seen, all;
  for (std::size_t round = 0; round < rounds.size(); ++round) {
    std::vector<std::int64_t> rows(2);
    for (const auto& [batch, source, weight] : rounds[round]) {
      rows.at(static_cast<std::size_t>(source)) += batch.rows();
      for (std::int64_t b = 0; b < batch.rows(); ++b) {
        const at::Tensor ids = batch.input_ids.host[b].contiguous();
        seen.emplace(ids.data_ptr<std::int64_t>(), ids.data_ptr<std::int64_t>() + ids.numel());
      }
    }
    EXPECT_EQ(rows, expected[round]) << round;
  }
  for (const auto& set : sets)
    for (const data::Sequence& sequence : set.to_vector()) all.emplace(sequence.tokens.begin(), sequence.tokens.end());
  EXPECT_EQ(seen, all);
  EXPECT_EQ(to_rounds(probe_sequences({lengths_of("a", {4, 5, 6})}, 8, 0), 8, at::kCPU, /*growing=*/true).size(), 1U);
}

TEST(MakeTrainLoader, JoinsDocumentsWithEosAndTakesTheWeights) {
  const Texts t;
  config::RunConfig config;
  config.seq_len = 4;
  config.data.train.resize(2);
  config.data.train[0].weight = 3;
  config.data.train[1].weight = 1;
  Datasets datasets{
      .train = {lengths_of("a", {9, 2}), lengths_of("b", {3, 7})}, .replay = {}, .general = {}, .eval = {}};
  const data::TrainLoader loader = make_train_loader(t.model(), config, datasets);
  data::TrainLoader read = loader;
  std::size_t tokens = 0;
  for (const data::Sequence& sequence : read.next_step(4)) tokens += sequence.source == 0 ? sequence.tokens.size() : 0;
  EXPECT_EQ(tokens, 9 + 2 + 2 - 1U) << "three sequences of four; the last EOS would be alone";
  EXPECT_DOUBLE_EQ(loader.share(0), 0.75);
  EXPECT_EQ(loader.state()["eos"], 28);
  EXPECT_EQ(loader.state()["seed"], 42);

  datasets.replay = {lengths_of("c", {9, 9}), lengths_of("d", {3, 1})};
  config.data.replay.resize(2);
  EXPECT_EQ(make_train_loader(t.model(), config, datasets).num_sources(), 2) << "no ratio, no replay";
  config.train.replay_ratio = 0.2;
  const data::TrainLoader with_replay = make_train_loader(t.model(), config, datasets);
  EXPECT_NEAR(with_replay.share(0), 0.8 * 0.75, 1e-12);
  EXPECT_NEAR(with_replay.share(1), 0.8 * 0.25, 1e-12);
  EXPECT_NEAR(with_replay.share(2), 0.2 * 20 / 26, 1e-12) << "by size, as there are no weights";
  EXPECT_NEAR(with_replay.share(3), 0.2 * 6 / 26, 1e-12);
}

TEST(MakeTrainLoader, TakesLimitsAndTemperature) {
  const Texts t;
  config::RunConfig config;
  config.seq_len = 4;
  config.data.train.resize(2);
  config.data.replay.resize(2);
  const Datasets datasets{.train = {lengths_of("a", {15}), lengths_of("b", {3})},
                          .replay = {lengths_of("c", {15}), lengths_of("d", {3})},
                          .general = {},
                          .eval = {}};
  config.data.temperature = 2;
  const data::TrainLoader without = make_train_loader(t.model(), config, datasets);
  EXPECT_NEAR(without.share(0), 2.0 / 3, 1e-12) << "four sequences to one";
  EXPECT_EQ(without.max_sequences(), std::nullopt);
  config.train.replay_ratio = 0.25;
  config.data.train[0].epochs = 2;
  config.data.train[1].max_tokens = 13;
  config.data.replay[0].max_tokens = 12;
  config.data.replay[1].epochs = 3;
  const data::TrainLoader loader = make_train_loader(t.model(), config, datasets);
  for (const auto& [source, share] : {std::pair{0, 0.5}, {1, 0.25}, {2, 0.25 * 2 / 3}, {3, 0.25 / 3}})
    EXPECT_NEAR(loader.share(source), share, 1e-12) << source;
  EXPECT_EQ(loader.max_sequences(), 8 + 3 + 3 + 3);
}

TEST(MakeTrainLoader, CountsNoExcludedDocumentsInSharesWithAndWithoutReplay) {
  const Texts t;
  config::RunConfig config;
  config.seq_len = 8;
  config.data.train.resize(2);
  config.data.replay.resize(2);
  const Datasets datasets{.train = {lengths_of("a", {7, 7, 7, 7}), lengths_of("b", {7, 7, 7, 7})},
                          .replay = {lengths_of("c", {7, 7}), lengths_of("d", {7})},
                          .general = {},
                          .eval = {},
                          .excluded = {{1, 2, 3}, {}, {0}, {}}};
  for (const double replay : {0.0, 0.5}) {
    config.train.replay_ratio = replay;
    const data::TrainLoader loader = make_train_loader(t.model(), config, datasets);
    EXPECT_NEAR(loader.share(0), (1 - replay) * 0.2, 1e-12) << replay;
    EXPECT_NEAR(loader.share(1), (1 - replay) * 0.8, 1e-12) << replay;
    if (replay == 0) continue;
    EXPECT_NEAR(loader.share(2), replay * 0.5, 1e-12);
  }
}

TEST(MakeTrainLoader, RefusesAModelWithoutAnEndOfSequenceToken) {
  const Texts t;
  test::write_file(t.dir / "model/tokenizer_config.json", R"({"eos_token": null})");
  config::RunConfig config;
  config.data.train.resize(1);
  const Datasets datasets{.train = {lengths_of("a", {9})}, .replay = {}, .general = {}, .eval = {}};
  EXPECT_THAT(test::message_of<DataError>([&] { make_train_loader(t.model(), config, datasets); }),
              HasSubstr("has no EOS token; expected eos_token in tokenizer_config.json"));
}

}  // namespace
}  // namespace adept::run
