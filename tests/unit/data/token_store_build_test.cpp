// Building token stores: interrupted and continued, by one process at a time.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "adept/core/error.h"
#include "adept/data/chat_template.h"
#include "adept/data/tokenize.h"
#include "adept/io/record.h"
#include "data_test_util.h"
#include "tests/support/captured_log.h"
#include "tests/support/files.h"
#include "tests/support/reads.h"

namespace adept::data {
namespace {

using adept::test::Says;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

/// Tokenizes texts into bytes, "drop" into nothing, and is interrupted after `count` of them.
class CountedEncoder {
 public:
  explicit CountedEncoder(std::int64_t count) : left_(count) {}

  TextEncoder encoder(std::shared_ptr<const ChatTemplate> chat = nullptr) {
    TextEncoder encoder = byte_encoder();
    encoder.encode = handing_over([this](std::string_view text) {
      if (left_-- <= 0) throw InterruptedError("interrupted", ExitCode::kInterrupted);
      ++encoded_;
      return text == "drop" ? std::vector<std::int32_t>() : bytes_of(text);
    });
    encoder.chat = std::move(chat);
    return encoder;
  }
  std::int64_t encoded() const { return encoded_; }

 private:
  std::atomic<std::int64_t> left_, encoded_ = 0;
};

constexpr std::int64_t kAll = 1'000'000;

std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename()] = adept::test::read_file(entry.path());
  return files;
}

// A call that is interrupted after any number of documents, and repeated, writes the same bytes as one that is not.
void expect_same_bytes_after_any_interrupt(const TemporaryFolder& folder, const TextSource& source,
                                           const std::shared_ptr<const ChatTemplate>& chat, std::int64_t shard_bytes) {
  const TokenizeOptions options{.num_threads = 1, .chunk_bytes = 1, .store = {.shard_bytes = shard_bytes}};
  CountedEncoder all(kAll);
  const TokenDataset whole = tokenize_to_store(folder / "whole", source, all.encoder(chat), options);
  expect_equal(whole, tokenize(source, CountedEncoder(kAll).encoder(chat)));
  verify_store(folder / "whole");
  const auto expected = files_of(folder / "whole");
  ASSERT_GT(expected.size(), 5u);
  EXPECT_FALSE(expected.contains("progress.json") || expected.contains(".lock"));
  std::int64_t num_kept = 0;
  for (std::int64_t count = 0; count < all.encoded(); ++count) {
    const std::string store = folder / fmt::format("after {}", count);
    CountedEncoder first(count), second(kAll);
    EXPECT_THROW(tokenize_to_store(store, source, first.encoder(chat), options), InterruptedError);
    const test::CapturedLog log;
    expect_equal(tokenize_to_store(store, source, second.encoder(chat), options), whole);
    EXPECT_EQ(files_of(store), expected) << count;
    EXPECT_EQ(second.encoded() < all.encoded(), log.text().find("going on after") != std::string::npos) << count;
    num_kept += all.encoded() - second.encoded();
    fs::remove_all(store);
  }
  EXPECT_GT(num_kept, all.encoded() * all.encoded() / 4) << "what is finished is not tokenized again";
}

TEST(TokenStoreBuild, GoesOnAfterAnyInterruptAndWritesTheSameBytes) {
  const TemporaryFolder folder;
  const TextSource source{
      .name = "s",
      .paths = {folder.write("a.jsonl",
                             "{\"text\": \"one\"}\nbad\n{\"text\": \"drop\"}\n\n{\"text\": \"three\"}\n"
                             "{\"text\": \"\"}\n{\"text\": \"four\"}\n{\"text\": 5}\n"),
                folder.write("b.txt", "a whole file"), folder.write("c.jsonl", "\n{\"text\": \"drop\"}\n"),
                folder.write("d.jsonl.gz", "{\"text\": \"a\"}\n{\"text\": \"bc\"}\nbad\n{\"text\": \"def\"}\n" +
                                               std::string("{\"text\": \"drop\"}\n{\"text\": \"last\"}\n"))},
      .on_bad_record = BadRecord::kSkip};
  expect_same_bytes_after_any_interrupt(folder, source, nullptr, 6);
  const auto info = open_store(folder / "whole").info();
  EXPECT_THAT(info.counts.skipped,
              testing::ElementsAre(testing::Pair("blank line", 2), testing::Pair("empty text", 1),
                                   testing::Pair("field not a string", 1), testing::Pair("invalid JSON", 2),
                                   testing::Pair("no tokens", 3)));
  EXPECT_EQ(info.counts.files, 4);
  EXPECT_EQ(info.skipped.size(), 4u);
  EXPECT_EQ(info.content_hash, content_hash(source));
}

TEST(TokenStoreBuild, GoesOnBetweenConversations) {
  const TemporaryFolder folder;
  folder.write("model/tokenizer_config.json", "{}");
  folder.write("model/chat_template.jinja",
               "{% for m in messages %}{% if m.role == 'x' %}{{ raise_exception('no') }}{% endif %}[{{ m.content }}]"
               "{% endfor %}");
  const auto chat = std::make_shared<const ChatTemplate>(ChatTemplate::from_model_dir(folder / "model"));
  std::string lines;
  for (int i = 0; i < 8; ++i)
    lines += fmt::format(R"({{"messages": [{{"role": "{}", "content": "{}"}}]}})", i % 5 == 3 ? "x" : "user", i) + "\n";
  const TextSource source{.name = "s",
                          .paths = {folder.write("a.jsonl", lines), folder.write("b.jsonl", lines)},
                          .messages_field = "messages",
                          .on_bad_record = BadRecord::kSkip};
  expect_same_bytes_after_any_interrupt(folder, source, chat, 6);
}

TEST(TokenStoreBuild, GoesOnBetweenConversationsWithAnswers) {
  const TemporaryFolder folder;
  folder.write("model/tokenizer_config.json", "{}");
  folder.write("model/chat_template.jinja", "{% for m in messages %}[{{ m.content }}]{% endfor %}");
  const auto chat = std::make_shared<const ChatTemplate>(ChatTemplate::from_model_dir(folder / "model"));
  std::string lines;
  for (int i = 0; i < 8; ++i)
    lines += fmt::format(R"({{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "{}", "content": "a"}}]}})",
                         i, i % 5 == 3 ? "tool" : "assistant") +
             "\n";
  const TextSource source{.name = "s",
                          .paths = {folder.write("a.jsonl", lines), folder.write("b.jsonl", lines)},
                          .messages_field = "messages",
                          .train_on = TrainOn::kAssistant,
                          .on_bad_record = BadRecord::kSkip};
  expect_same_bytes_after_any_interrupt(folder, source, chat, 12);
  const TokenDataset dataset = open_store(folder / "whole");
  EXPECT_EQ(dataset.num_documents(), 14);
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i)
    EXPECT_EQ(dataset.untrained(i), (Untrained{.spans = {{0, 3}}, .bytes = 3})) << "[0][a]";
}

/// A store that was interrupted after two shards, and continued.
struct Interrupted {
  TemporaryFolder folder;
  std::string store = folder / "store";
  TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(30))}};
  TokenizeOptions options{
      .num_threads = 1, .chunk_bytes = 1, .store = {.shard_bytes = 100, .on_other = OnOtherStore::kReplace}};

  Interrupted() {
    CountedEncoder encoder(20);
    EXPECT_THROW(tokenize_to_store(store, source, encoder.encoder(), options), InterruptedError);
    EXPECT_TRUE(fs::exists(store + "/00001.tokens") && fs::exists(store + "/progress.json"));
  }
  // What is logged.
  std::string go_on(const TextEncoder& encoder = byte_encoder()) {
    const test::CapturedLog log;
    expect_equal(tokenize_to_store(store, source, encoder, options), tokenize(source, encoder));
    verify_store(store);
    return log.text();
  }
};

TEST(TokenStoreBuild, StartsAgainIfAnyInputChangedAndSaysSo) {
  const auto started_again = Says("contains part of a store of other text, options, tokenizer or shard size");
  EXPECT_THAT(Interrupted().go_on(), AllOf(HasSubstr("going on after"), Not(started_again)));
  Interrupted text;
  text.folder.write("a.jsonl", many_lines(31));
  EXPECT_THAT(text.go_on(), started_again);
  Interrupted option;
  option.source.on_bad_record = BadRecord::kSkip;
  EXPECT_THAT(option.go_on(), started_again);
  Interrupted shards;
  shards.options.store.shard_bytes = 120;
  EXPECT_THAT(shards.go_on(), started_again);
  Interrupted tokenizer;
  TextEncoder other = byte_encoder();
  other.fingerprint = "other";
  EXPECT_THAT(tokenizer.go_on(other), started_again);
  Interrupted vocabulary;
  other = byte_encoder();
  other.vocab_size = 70'000;
  EXPECT_THAT(vocabulary.go_on(other), started_again);
}

TEST(TokenStoreBuild, KeepsFinishedPartsOfOtherInputsUnlessTheyMayBeReplaced) {
  Interrupted text;
  text.options.store.on_other = OnOtherStore::kFail;
  EXPECT_THAT(text.go_on(), HasSubstr("going on after")) << "the same inputs";
  Interrupted other;
  other.options.store.on_other = OnOtherStore::kFail;
  other.folder.write("a.jsonl", many_lines(31));
  const auto before = files_of(other.store);
  EXPECT_THAT(message_of<ConfigError>([&] { other.go_on(); }),
              AllOf(HasSubstr(other.store + ": contains 8 finished shards"), HasSubstr("--force")));
  EXPECT_EQ(files_of(other.store), before);
}

TEST(TokenStoreBuild, NamesADamagedShardOfACompleteStore) {
  for (const auto& damage : std::vector<std::function<void(const std::string&)>>{
           [](const std::string& shard) { fs::remove(shard); },
           [](const std::string& shard) { fs::resize_file(shard, 90); }}) {
    const TemporaryFolder folder;
    const TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(60))}};
    TokenizeOptions options{.store = {.shard_bytes = 100}};
    tokenize_to_store(folder / "store", source, byte_encoder(), options);
    damage(folder / "store/00001.tokens");
    EXPECT_THAT(message_of<DataError>([&] { tokenize_to_store(folder / "store", source, byte_encoder(), options); }),
                AllOf(HasSubstr("store/00001.tokens"), HasSubstr("tokenize again")));
    options.store.on_other = OnOtherStore::kReplace;
    const test::CapturedLog log;
    expect_equal(tokenize_to_store(folder / "store", source, byte_encoder(), options),
                 tokenize(source, byte_encoder()));
    EXPECT_THAT(log.text(), AllOf(HasSubstr("store/00001.tokens"), HasSubstr("Tokenizing again.")));
  }
}

TEST(TokenStoreBuild, StartsAgainIfAFinishedPartIsDamaged) {
  Interrupted cut;
  fs::resize_file(cut.store + "/00001.tokens", 90);
  EXPECT_THAT(cut.go_on(), AllOf(HasSubstr("00001.tokens"), HasSubstr("Starting again.")));
  Interrupted absent;
  fs::remove(absent.store + "/00000.tokens");
  EXPECT_THAT(absent.go_on(), AllOf(HasSubstr("00000.tokens"), HasSubstr("Starting again.")));
  Interrupted lying;
  Json lie = io::read_record(lying.store + "/progress.json");
  lie.erase(io::kChecksum);
  lie["documents"] = "a hash";
  io::write_record(lying.store + "/progress.json", lie);
  EXPECT_THAT(lying.go_on(), AllOf(HasSubstr("the hash of documents is \"a hash\""), HasSubstr("Starting again.")));
  Interrupted damaged;
  std::string progress = adept::test::read_file(damaged.store + "/progress.json");
  progress[progress.find("documents") + 15] ^= 1;
  std::ofstream(damaged.store + "/progress.json") << progress;
  EXPECT_THAT(damaged.go_on(), AllOf(HasSubstr("progress.json"), HasSubstr("Starting again.")));
}

TEST(TokenStoreBuild, LeavesNothingBehindOfAStoreThatWasLarger) {
  const TemporaryFolder folder;
  TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(60))}};
  const TokenizeOptions options{.store = {.shard_bytes = 100, .on_other = OnOtherStore::kReplace}};
  tokenize_to_store(folder / "store", source, byte_encoder(), options);
  folder.write("store/.00003.tokens.tmp-0123456789abcdef", "of a process that was killed");
  source.paths = {folder.write("b.jsonl", "{\"text\": \"short\"}\n")};
  const test::CapturedLog log;
  tokenize_to_store(folder / "store", source, byte_encoder(), options);
  EXPECT_THAT(log.text(), AllOf(HasSubstr(folder / "store"), HasSubstr("tokenizing again; what changed: the text")));
  std::vector<std::string> names;
  for (const auto& [name, bytes] : files_of(folder / "store")) names.push_back(name);
  EXPECT_THAT(names, testing::ElementsAre("00000.tokens", "store.json"));
}

TEST(TokenStoreBuild, IsUsedAgainAndOnlyReplacedOnRequest) {
  const TemporaryFolder folder;
  TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(60))}};
  const TokenDataset first = tokenize_to_store(folder / "store", source, byte_encoder());
  CountedEncoder none(0);
  source.name = "another name";
  const TokenDataset again = tokenize_to_store(folder / "store", source, none.encoder());
  EXPECT_EQ(again.fingerprint(), first.fingerprint());
  EXPECT_EQ(again.name(), "another name");
  const auto before = files_of(folder / "store");
  source.on_bad_record = BadRecord::kSkip;
  TextEncoder other = byte_encoder();
  other.fingerprint = "other";
  other.vocab_size = 300;
  EXPECT_THAT(message_of<ConfigError>([&] { tokenize_to_store(folder / "store", source, other); }),
              AllOf(HasSubstr(folder / "store"), HasSubstr("the text or its options"), HasSubstr("the tokenizer"),
                    HasSubstr("the size of the vocabulary (256, now 300)"), HasSubstr("--force")));
  EXPECT_EQ(files_of(folder / "store"), before);
  // Of one that is damaged, only its record is known; it may be of anything.
  std::ofstream(folder / "store/store.json") << "damaged";
  EXPECT_THAT(message_of<DataError>([&] { tokenize_to_store(folder / "store", source, byte_encoder()); }),
              HasSubstr("store.json"));
  const TokenizeOptions replacing{.store = {.on_other = OnOtherStore::kReplace}};
  const test::CapturedLog log;
  EXPECT_EQ(tokenize_to_store(folder / "store", source, byte_encoder(), replacing).fingerprint(), first.fingerprint());
  EXPECT_THAT(log.text(), HasSubstr("Tokenizing again."));
}

// Returns when `log` has `text`, or after half a minute: what expects the text then fails.
void wait_for(const test::CapturedLog& log, const std::string& text) {
  for (int i = 0; i < 6000 && log.text().find(text) == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

TEST(TokenStoreBuild, IsDoneByOneProcessWhileOthersWaitForIt) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(60))}};
  CountedEncoder one(kAll);
  tokenize(source, one.encoder());
  CountedEncoder shared(kAll);
  const TextEncoder counted = shared.encoder();
  const test::CapturedLog log;
  TextEncoder slow = counted;
  slow.encode = [&](std::string_view text, IdSink sink) {
    wait_for(log, "waiting for process");
    counted.encode(text, sink);
  };
  std::vector<std::string> fingerprints(4);
  std::vector<std::thread> threads;
  for (std::string& fingerprint : fingerprints)
    threads.emplace_back(
        [&] { fingerprint = tokenize_to_store(folder / "store", source, slow, {.num_threads = 1}).fingerprint(); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(fingerprints, testing::Each(tokenize(source, byte_encoder()).fingerprint()));
  EXPECT_EQ(shared.encoded(), one.encoded()) << "once";
  EXPECT_THAT(log.text(), HasSubstr(fmt::format("{}: waiting for process {}", folder / "store", getpid())));
}

TEST(TokenStoreBuild, IsTakenOverWhenTheProcessBeforeFails) {
  const TemporaryFolder folder;
  const TextSource source{.name = "s", .paths = {folder.write("a.jsonl", many_lines(60))}};
  const test::CapturedLog log;
  TextEncoder failing = byte_encoder();
  failing.encode = [&](std::string_view, IdSink) {
    wait_for(log, "waiting for process");
    throw DataError("no such luck");
  };
  std::thread first([&] { EXPECT_THROW(tokenize_to_store(folder / "store", source, failing), DataError); });
  while (!fs::exists(folder / "store/.lock")) std::this_thread::yield();
  const TokenDataset second = tokenize_to_store(folder / "store", source, byte_encoder());
  first.join();
  EXPECT_THAT(log.text(), HasSubstr("waiting for process"));
  EXPECT_EQ(second.fingerprint(), tokenize(source, byte_encoder()).fingerprint());
  EXPECT_TRUE(is_store(folder / "store"));
}

}  // namespace
}  // namespace adept::data
