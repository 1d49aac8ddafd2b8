#include "adept/data/store/store_record.h"

#include <fmt/format.h>

#include <limits>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/io/record.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr char kProgressFile[] = "progress.json";
constexpr char kStoreFormat[] = "adept token store";
constexpr std::int64_t kStoreVersion = 1;
// Counted up when the same inputs give other ids, so that no store with the old ones is used.
constexpr std::int64_t kTokenizeRule = 2;

/// Reads the fields of a record, with errors that name the file and the field.
class RecordFields {
 public:
  RecordFields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json& at(const char* key) const {
    const auto found = json_.is_object() ? json_.find(key) : json_.end();
    if (found == json_.end()) fail(fmt::format("\"{}\" is missing", key));
    return *found;
  }
  std::string text(const char* key) const {
    if (!at(key).is_string()) fail(fmt::format("\"{}\" is {}; expected a string", key, brief(at(key))));
    return at(key).get<std::string>();
  }
  std::int64_t count(const char* key, std::int64_t least = 0) const {
    const Json& value = at(key);
    if (!value.is_number_integer() || value.get<std::int64_t>() < least ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()))
      fail(fmt::format("\"{}\" is {}; expected a whole number from {} on", key, brief(value), least));
    return value.get<std::int64_t>();
  }
  std::vector<ShardRecord> shards() const {
    if (!at("shards").is_array()) fail("\"shards\" is not a list");
    std::vector<ShardRecord> shards;
    for (const Json& shard : at("shards")) {
      const RecordFields fields(shard, where_);
      shards.push_back({.documents = fields.count("documents", 1),
                        .tokens = fields.count("tokens", 1),
                        .hash = fields.text("hash")});
    }
    return shards;
  }
  void check_format() const {
    if (text("format") != kStoreFormat)
      fail(fmt::format("\"format\" is {}; expected \"{}\"", brief(at("format")), kStoreFormat));
    if (count("version") != kStoreVersion)
      fail(fmt::format("has version {}; this build reads version {}", count("version"), kStoreVersion));
  }
  [[noreturn]] void fail(const std::string& problem) const {
    throw DataError("{}: {}. Delete the folder {} and tokenize again.", where_, problem,
                    fs::path(where_).parent_path().string());
  }

 private:
  const Json& json_;
  std::string where_;
};

Json shards_to_json(const std::vector<ShardRecord>& shards) {
  Json json = Json::array();
  for (const ShardRecord& shard : shards)
    json.push_back({{"documents", shard.documents}, {"tokens", shard.tokens}, {"hash", shard.hash}});
  return json;
}

Json read_record_of_store(const fs::path& path) {
  try {
    return io::read_record(path);
  } catch (const DataError& error) {
    throw DataError("{} Delete the folder {} and tokenize again.", error.what(), path.parent_path().string());
  }
}

}  // namespace

std::string shard_name(std::size_t shard) { return fmt::format("{:05}.tokens", shard); }

Json inputs_of(const DatasetInfo& info, std::int64_t shard_bytes) {
  return {{"rule", kTokenizeRule},
          {"source", info.source_fingerprint},
          {"tokenizer", info.tokenizer_fingerprint},
          {"vocab_size", info.vocab_size},
          {"shard_bytes", shard_bytes}};
}

bool is_store(const fs::path& folder) { return is_present(folder / kStoreFile); }

void write_store_record(const fs::path& folder, const StoreRecord& record) {
  const DatasetInfo& info = record.info;
  io::write_record(folder / kStoreFile, {{"format", kStoreFormat},
                                         {"version", kStoreVersion},
                                         {"name", info.name},
                                         {"vocab_size", info.vocab_size},
                                         {"bytes_per_id", bytes_per_id(info.vocab_size)},
                                         {"eos", info.eos ? Json(*info.eos) : Json()},
                                         {"tokenizer", info.tokenizer_fingerprint},
                                         {"vocabulary", info.vocabulary_fingerprint},
                                         {"source", info.source_fingerprint},
                                         {"content", info.content_hash},
                                         {"counts", to_json(info.counts)},
                                         {"skipped", to_json(info.skipped)},
                                         {"fingerprint", record.fingerprint},
                                         {"shards", shards_to_json(record.shards)}});
}

StoreRecord read_store_record(const fs::path& folder) {
  const fs::path path = folder / kStoreFile;
  const Json json = read_record_of_store(path);
  const RecordFields fields(json, path.string());
  fields.check_format();
  StoreRecord record{.info = {}, .fingerprint = fields.text("fingerprint"), .shards = fields.shards()};
  DatasetInfo& info = record.info;
  info.name = fields.text("name");
  info.vocab_size = fields.count("vocab_size", 1);
  if (info.vocab_size > std::numeric_limits<std::int32_t>::max())
    fields.fail(fmt::format("\"vocab_size\" is {}; expected at most 2^31 - 1", info.vocab_size));
  if (!fields.at("eos").is_null()) {
    const std::int64_t eos = fields.count("eos");
    if (eos >= info.vocab_size) fields.fail(fmt::format("\"eos\" is {}, but \"vocab_size\" {}", eos, info.vocab_size));
    info.eos = static_cast<std::int32_t>(eos);
  }
  info.tokenizer_fingerprint = fields.text("tokenizer");
  info.vocabulary_fingerprint = fields.text("vocabulary");
  info.source_fingerprint = fields.text("source");
  info.content_hash = fields.text("content");
  info.counts = source_counts_from_json(fields.at("counts"), path.string());
  info.skipped = skipped_records_from_json(fields.at("skipped"), path.string());
  std::int64_t documents = 0, tokens = 0;
  for (const ShardRecord& shard : record.shards)
    if (__builtin_add_overflow(documents, shard.documents, &documents) ||
        __builtin_add_overflow(tokens, shard.tokens, &tokens))
      fields.fail("the documents and tokens of its shards are too many");
  if (documents != info.counts.documents || tokens != info.counts.tokens)
    fields.fail(fmt::format("its shards have {} documents with {} tokens, but its counts are {} and {}", documents,
                            tokens, info.counts.documents, info.counts.tokens));
  return record;
}

void write_progress(const fs::path& folder, const StoreProgress& progress) {
  io::write_record(folder / kProgressFile, {{"format", kStoreFormat},
                                            {"version", kStoreVersion},
                                            {"inputs", progress.inputs},
                                            {"shards", shards_to_json(progress.shards)},
                                            {"documents", progress.documents},
                                            {"text_bytes", progress.text_bytes},
                                            {"place", progress.place}});
}

std::optional<StoreProgress> read_progress(const fs::path& folder) {
  const fs::path path = folder / kProgressFile;
  if (!is_present(path)) return std::nullopt;
  const Json json = read_record_of_store(path);
  const RecordFields fields(json, path.string());
  fields.check_format();
  return StoreProgress{.inputs = fields.at("inputs"),
                       .shards = fields.shards(),
                       .documents = fields.text("documents"),
                       .text_bytes = fields.count("text_bytes"),
                       .place = fields.at("place")};
}

bool has_progress(const fs::path& folder) { return is_present(folder / kProgressFile); }

void remove_progress(const fs::path& folder) {
  if (has_progress(folder)) remove_or_warn(folder / kProgressFile);
}

void remove_store_record(const fs::path& folder) {
  if (is_store(folder)) remove_or_warn(folder / kStoreFile);
}

}  // namespace adept::data
