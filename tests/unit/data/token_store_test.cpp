// The files of a token store: what they hold, when they are checked, and what is said of bad ones.
#include "adept/data/store/token_store.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <functional>

#include "adept/core/error.h"
#include "adept/core/hash_detail.h"
#include "adept/io/record.h"
#include "data_test_util.h"
#include "tests/support/files.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

using adept::test::read_file;

void read_everything(const fs::path& store) {
  const TokenDataset dataset = open_store(store);
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    test::document_ids(dataset, i);
    dataset.last_token(i);
    dataset.document_bytes(i);
  }
}

// A shard ends with the first document by which it has `shard_bytes`.
std::size_t expected_shards(const TokenDataset& dataset, std::int64_t shard_bytes) {
  std::size_t shards = 0;
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < dataset.num_documents(); ++i) {
    if (bytes == 0) ++shards;
    bytes += dataset.document_tokens(i) * (dataset.vocab_size() <= 65'536 ? 2 : 4);
    if (bytes >= shard_bytes) bytes = 0;
  }
  return shards;
}

TEST(TokenStore, RoundTripsInShardsOfAnySizeAndOutlivesItsFolder) {
  const TemporaryFolder folder;
  for (const std::vector<std::int64_t>& lengths :
       {std::vector<std::int64_t>{3, 1, 4}, {2}, {}, {1, 1, 1, 70'000, 5, 700'000, 1}})
    for (const std::int64_t shard_bytes : {std::int64_t{1}, std::int64_t{13}, std::int64_t{1} << 28}) {
      const TokenDataset dataset = counting_dataset("s", lengths);
      write_store(folder / "store", dataset, shard_bytes);
      const auto num_shards = static_cast<std::size_t>(
          std::count_if(fs::directory_iterator(folder / "store"), fs::directory_iterator(),
                        [](const auto& entry) { return entry.path().extension() == ".tokens"; }));
      EXPECT_EQ(num_shards, expected_shards(dataset, shard_bytes));
      const TokenDataset read = open_store(folder / "store");
      fs::remove_all(folder / "store");
      expect_equal(read, dataset);
    }
}

TEST(TokenStore, TakesTwoBytesPerIdWhereTheVocabularyFits) {
  const TemporaryFolder folder;
  std::vector<std::int32_t> ids(100'000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i % 65'536);
  const std::vector<std::vector<std::int32_t>> documents = {{65'535, 0, 32'768}, ids};
  const std::vector<std::int64_t> bytes = {std::int64_t{5} << 32, 7};  // more than 32 bits
  std::string fingerprint;
  for (const auto& [vocab_size, id_bytes] : {std::pair{65'536, 2}, {65'537, 4}}) {
    const TokenDataset dataset({.name = "s", .vocab_size = vocab_size}, documents, bytes);
    const std::string path = folder / std::to_string(vocab_size);
    expect_equal(write_store(path, dataset), dataset);
    EXPECT_NEAR(static_cast<double>(fs::file_size(path + "/00000.tokens")), id_bytes * 100'003, 300);
    if (!fingerprint.empty()) {
      EXPECT_EQ(dataset.fingerprint(), fingerprint) << "the same ids";
    }
    fingerprint = dataset.fingerprint();
  }
}

TEST(TokenStore, IsCheckedWhereItIsReadNotWhenItIsOpened) {
  const TemporaryFolder folder;
  write_store(folder / "store", counting_dataset("s", std::vector<std::int64_t>(99, 10'000)), 1'000'000);
  const auto hashed = [](const auto& work) {
    const std::int64_t before = adept::detail::hashed_bytes();
    work();
    return adept::detail::hashed_bytes() - before;
  };
  std::optional<TokenDataset> dataset;
  EXPECT_LT(hashed([&] { dataset = open_store(folder / "store"); }), 2000) << "its record";
  std::vector<std::int32_t> part(10);
  const auto one_block = hashed([&] { dataset->read(50, 5000, part); });
  EXPECT_GT(one_block, 64 << 10);
  EXPECT_LT(one_block, (64 << 10) + 2000) << "a block, and the index of its shard";
  EXPECT_EQ(hashed([&] { dataset->read(50, 5010, part); }), 0) << "once";
}

TEST(TokenStore, FindsEveryFlippedBitAndEveryTruncation) {
  const TemporaryFolder folder;
  write_store(folder / "store", counting_dataset("s", {3, 1, 5}));
  for (const char* name : {"00000.tokens", "store.json"}) {
    const fs::path path = fs::path(folder / "store") / name;
    const std::string good = read_file(path);
    ASSERT_LT(good.size(), 2000u);
    const auto problem = [&](const std::string& bytes) {
      std::ofstream(path, std::ios::binary) << bytes;
      return message_of<DataError>([&] { read_everything(folder / "store"); });
    };
    for (std::size_t at = 0; at < good.size(); ++at)
      for (const int bit : {0, 3, 7}) {
        std::string bad = good;
        bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
        EXPECT_THAT(problem(bad), HasSubstr(path.parent_path().string())) << name << " " << at << " " << bit;
      }
    const std::size_t end_of_line = good.ends_with('\n') ? 1 : 0;  // without which a record is complete
    for (std::size_t size = good.size() - end_of_line; size-- > 0;)
      EXPECT_THAT(problem(good.substr(0, size)), HasSubstr(path.string())) << name << " " << size;
    EXPECT_THAT(problem(good + "x"), HasSubstr(path.string()));
    std::ofstream(path, std::ios::binary) << good;
    read_everything(folder / "store");
    fs::rename(path, folder / "away");
    EXPECT_THAT(message_of<DataError>([&] { read_everything(folder / "store"); }), HasSubstr(path.string()));
    fs::create_directory(path);
    EXPECT_THAT(message_of<DataError>([&] { read_everything(folder / "store"); }), HasSubstr(path.string()));
    fs::remove(path);
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    EXPECT_THAT(message_of<DataError>([&] { read_everything(folder / "store"); }), HasSubstr("named pipe"));
    fs::remove(path);
    fs::rename(folder / "away", path);
  }
  EXPECT_THAT(message_of<DataError>([&] { open_store(folder / "none"); }), HasSubstr("none/store.json"));
  EXPECT_THAT(message_of<DataError>([&] { open_store("/dev/null"); }), HasSubstr("/dev/null/store.json"));
}

TEST(TokenStore, SaysWhatIsWrongWithAShard) {
  const TemporaryFolder folder;
  const std::string store = folder / "store", path = store + "/00000.tokens";
  write_store(store, counting_dataset("s", {3, 1, 5}));
  const std::string good = read_file(path);
  const auto problem = [&](const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    const std::string message = message_of<DataError>([&] { read_everything(store); });
    EXPECT_THAT(message, AllOf(HasSubstr(path), HasSubstr("Delete the folder " + store + " and tokenize again")));
    return message;
  };
  EXPECT_THAT(problem("hello"), HasSubstr("5 bytes are too few"));
  EXPECT_THAT(problem(std::string(500, 'x')), HasSubstr("expected \"ADEPTTOK\" at its start"));
  for (const std::string version : {"\x01", "\x04"})
    EXPECT_THAT(problem(std::string(good).replace(8, 1, version)),
                AllOf(HasSubstr("format version "), HasSubstr("this build reads versions 2 to 3")));
  EXPECT_THAT(problem(std::string(good).replace(8, 4, std::string("\0\0\0\x03", 4))), HasSubstr("another byte order"));
  EXPECT_THAT(problem(std::string(good).replace(12, 1, "\x02")), HasSubstr("2 bytes per id; expected 4"));
  EXPECT_THAT(problem(good.substr(0, good.size() - 8)), HasSubstr("no \"ADEPTEND\" at its end"));
  EXPECT_THAT(problem(std::string(good).replace(20, 1, "\x09")),
              AllOf(HasSubstr("block 0, ids 0 to 8, does not match its hash")));
  EXPECT_THAT(problem(std::string(good).replace(56, 1, "\x02")), HasSubstr("its index, bytes 52 to"));
  const std::size_t footer = good.size() - 72;
  for (const std::size_t field : {footer, footer + 8})  // counts whose sum would overflow
    EXPECT_THAT(problem(std::string(good).replace(field, 8, std::string(8, '\xFF'))),
                AllOf(HasSubstr("18446744073709551615"), HasSubstr("expected 3, 9 and xxh3:")));
  EXPECT_THAT(problem(std::string(good).replace(footer + 16, 1, "\x05")), HasSubstr("5 bytes per number"));
  EXPECT_THAT(problem(std::string(good).replace(footer + 16, 1, "\x08")), HasSubstr("do not match the sizes"));
  EXPECT_THAT(problem(std::string(good).replace(footer + 24, 8, "xxh3:000")), HasSubstr("the hash xxh3:000"));
  write_store(folder / "other", counting_dataset("s", {4, 1, 4}));
  EXPECT_THAT(problem(read_file(folder / "other/00000.tokens")),
              HasSubstr("is not the file that the store's record names"));
}

// The record of a store with another value, and a right checksum.
std::string with_record(const std::string& store, const std::function<void(Json&)>& change) {
  Json record = io::read_record(store + "/store.json");
  record.erase(io::kChecksum);
  const Json good = record;
  change(record);
  io::write_record(store + "/store.json", record);
  const std::string message = message_of<DataError>([&] { read_everything(store); });
  io::write_record(store + "/store.json", good);
  EXPECT_THAT(message, HasSubstr(store));
  return message;
}

TEST(TokenStore, SaysWhatIsWrongWithItsRecord) {
  const TemporaryFolder folder;
  const std::string store = folder / "store";
  write_store(store, counting_dataset("s", {3, 1, 5}), 12);
  read_everything(store);
  const auto with = [&](const char* key, const Json& value) {
    return with_record(store, [&](Json& record) { record[key] = value; });
  };
  EXPECT_THAT(with("version", 7), HasSubstr("has version 7; this build reads version 1"));
  EXPECT_THAT(with("format", "other"), HasSubstr("\"format\" is \"other\"; expected \"adept token store\""));
  for (const char* key : {"name", "tokenizer", "vocabulary", "source", "content", "fingerprint"})
    EXPECT_THAT(with(key, 3), AllOf(HasSubstr(std::string("\"") + key + "\" is 3"), HasSubstr("expected a string")));
  for (const Json& value : {Json(0), Json(-1), Json("x"), Json(1.5), Json(std::uint64_t{1} << 63)})
    EXPECT_THAT(with("vocab_size", value), AllOf(HasSubstr("\"vocab_size\" is "), HasSubstr("from 1 on")));
  EXPECT_THAT(with("vocab_size", std::int64_t{1} << 40), HasSubstr("expected at most 2^31 - 1"));
  EXPECT_THAT(with("vocab_size", 500), HasSubstr("4 bytes per id; expected 2")) << "ids of other files";
  EXPECT_THAT(with("eos", 1'000'000), HasSubstr("\"eos\" is 1000000, but \"vocab_size\" 1000000"));
  EXPECT_THAT(with("counts", Json()), HasSubstr("counts is not an object"));
  EXPECT_THAT(with("shards", 3), HasSubstr("\"shards\" is not a list"));
  EXPECT_THAT(with("shards", Json::array()), HasSubstr("0 documents with 0 tokens, but its counts are 3 and 9"));
  EXPECT_THAT(with("shards", Json::array({3})), HasSubstr("\"documents\" is missing"));
  const Json huge = {{"documents", std::int64_t{1} << 62}, {"tokens", 1}, {"hash", ""}};
  EXPECT_THAT(with("shards", Json::array({huge, huge, huge})), HasSubstr("too many"));
  EXPECT_THAT(with_record(store, [](Json& record) { record.erase("shards"); }), HasSubstr("\"shards\" is missing"));
  EXPECT_THAT(with_record(store, [](Json& record) { std::swap(record["shards"][0], record["shards"][1]); }),
              HasSubstr("is not the file that the store's record names"));
}

// A file with right hashes can still lie.
TEST(TokenStore, RefusesLiesWithRightHashes) {
  const TemporaryFolder folder;
  int number = 0;
  const auto problem = [&](const std::vector<std::int32_t>& ids, std::int64_t bytes, std::int64_t vocab_size) {
    const std::string store = folder / std::to_string(number++);
    const DatasetInfo info{.name = "s", .vocab_size = vocab_size};
    return message_of<DataError>([&] {
      build_store(store, info, {}, [&](StoreWriter& writer) {
        writer.add(ids, bytes);
        return info;
      });
      read_everything(store);
    });
  };
  EXPECT_THAT(problem({1, 9, 1}, 1, 9), HasSubstr("its id 1 is 9, outside its vocabulary of 9 ids"));
  EXPECT_THAT(problem({1, 9}, 1, 9), HasSubstr("document 0 ends with the id 9"));
  EXPECT_THAT(problem({-2, 1}, 1, 70'000), HasSubstr("its id 0 is -2"));
  EXPECT_THAT(problem({1}, -5, 9), AnyOf(HasSubstr("document 0 has -5 bytes of text"), HasSubstr("not a count")));
}

TEST(TokenStore, IsVerifiedAsAWhole) {
  const TemporaryFolder folder;
  const std::string store = folder / "store";
  write_store(store, counting_dataset("s", {3, 1, 5, 2}), 12);
  verify_store(store);
  const auto with = [&](const char* key, const Json& value) {
    Json record = io::read_record(store + "/store.json");
    record.erase(io::kChecksum);
    record[key] = value;
    io::write_record(store + "/store.json", record);
    return message_of<DataError>([&] { verify_store(store); });
  };
  EXPECT_THAT(with("fingerprint", "xxh3:0"),
              AllOf(HasSubstr(store), HasSubstr("do not match its record"), HasSubstr("expected 33 and xxh3:0")));
  write_store(folder / "other", counting_dataset("s", {3, 1, 5, 2}), 12);
  Json counts = io::read_record(folder / "other/store.json").at("counts");
  counts["bytes"] = 34;
  fs::remove_all(store);
  fs::rename(folder / "other", store);
  EXPECT_THAT(with("counts", counts), AllOf(HasSubstr("found 33 bytes of text"), HasSubstr("expected 34")));
}

TEST(TokenStore, CannotBeBuiltWhereOtherFilesAre) {
  const TemporaryFolder folder;
  const TokenDataset dataset = counting_dataset("s", {3});
  folder.write("full/a.txt", "text");
  EXPECT_THAT(message_of<DataError>([&] { write_store(folder / "full", dataset); }),
              AllOf(HasSubstr(folder / "full"), HasSubstr("not a token store (it contains a.txt)")));
  EXPECT_THAT(message_of<DataError>([&] { write_store(folder / "full/a.txt", dataset); }), HasSubstr("is a file"));
  EXPECT_THROW(write_store("/proc/none/store", dataset), DataError);
  EXPECT_EQ(read_file(folder / "full/a.txt"), "text");
}

}  // namespace
}  // namespace adept::data
