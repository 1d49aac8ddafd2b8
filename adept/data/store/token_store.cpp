#include "adept/data/store/token_store.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/core/signals.h"
#include "adept/io/directory_lock.h"
#include "adept/io/temporary.h"
#include "adept/io/use_lock.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

/// The shards of a store as one list of documents.
class StoreStorage : public TokenStorage {
 public:
  StoreStorage(const fs::path& folder, const StoreRecord& record, OnDamage on_damage = OnDamage::kKeep,
               UniqueFd lock = {})
      : folder_(folder), lock_(std::move(lock)) {
    for (std::size_t i = 0; i < record.shards.size(); ++i) {
      shards_.push_back(
          std::make_unique<const Shard>(folder / shard_name(i), record.shards[i], record.info.vocab_size, on_damage));
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + shards_.back()->num_documents());
      has_untrained_ = has_untrained_ || shards_.back()->has_untrained();
    }
  }

  std::int64_t document_tokens(std::int64_t i) const override {
    const auto [shard, at] = place_of(i);
    return shard.document_tokens(at);
  }
  std::int64_t document_bytes(std::int64_t i) const override {
    const auto [shard, at] = place_of(i);
    return shard.document_bytes(at);
  }
  std::int32_t last_token(std::int64_t i) const override {
    const auto [shard, at] = place_of(i);
    return shard.last_token(at);
  }
  Untrained untrained(std::int64_t i) const override {
    const auto [shard, at] = place_of(i);
    return shard.untrained(at);
  }
  bool has_untrained() const override { return has_untrained_; }
  void read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const override {
    const auto [shard, at] = place_of(i);
    shard.read(at, begin, out);
  }
  void verify() const override {
    for (const auto& shard : shards_) shard->verify();
  }
  fs::path folder() const override { return folder_; }

  const std::vector<std::unique_ptr<const Shard>>& shards() const { return shards_; }

 private:
  struct Place {
    const Shard& shard;
    std::int64_t at;
  };
  Place place_of(std::int64_t i) const {
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), i);
    ADEPT_CHECK(i >= 0 && end != ends_.end(), "document {} of {}", i, ends_.empty() ? 0 : ends_.back());
    const Shard& shard = *shards_[static_cast<std::size_t>(end - ends_.begin())];
    return {shard, i - (*end - shard.num_documents())};
  }

  fs::path folder_;
  UniqueFd lock_;  // of a store in use
  std::vector<std::unique_ptr<const Shard>> shards_;
  std::vector<std::int64_t> ends_;  // documents up to the end of each shard
  bool has_untrained_ = false;
};

// The number in the name of a shard.
std::optional<std::size_t> shard_number(const fs::path& name) {
  const std::string digits = name.stem().string();
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  const bool is_number = error == std::errc() && end == digits.data() + digits.size();
  return is_number && name == shard_name(number) ? std::optional(number) : std::nullopt;
}

// A folder with files of others is not written into.
void check_folder(const fs::path& folder) {
  std::error_code error;
  const fs::file_status status = fs::status(folder, error);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status))
    throw DataError(
        "{}: is a file; expected a folder, or a path that does not exist. Remove it, or choose another output.",
        folder.string());
  if (is_store(folder) || has_progress(folder)) return;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (const fs::path name = it->path().filename(); !name.string().starts_with('.') && !shard_number(name))
      throw DataError("{}: is not empty and not a token store (it contains {}). Choose another output.",
                      folder.string(), name.string());
}

std::vector<std::string> differences_of(const DatasetInfo& there, const DatasetInfo& now) {
  std::vector<std::string> list;
  if (there.source_fingerprint != now.source_fingerprint)
    list.push_back("the text or its options (a file that was written again counts as changed)");
  if (there.tokenizer_fingerprint != now.tokenizer_fingerprint) list.push_back("the tokenizer");
  if (there.vocab_size != now.vocab_size)
    list.push_back(fmt::format("the size of the vocabulary ({}, now {})", there.vocab_size, now.vocab_size));
  return list;
}

// A store that may be replaced need not be kept damaged.
OnDamage on_damage_of(const StoreOptions& options) {
  return options.on_other == OnOtherStore::kReplace ? OnDamage::kDiscard : OnDamage::kKeep;
}

// A complete store of the same inputs that can be opened.
std::optional<TokenDataset> find_same(const fs::path& folder, const DatasetInfo& inputs, const StoreOptions& options) {
  if (!is_store(folder)) return std::nullopt;
  try {
    const TokenDataset dataset = open_store(folder, on_damage_of(options));
    if (differences_of(dataset.info(), inputs).empty()) return dataset.renamed(inputs.name);
  } catch (const DataError&) {  // check_replaced() reports it
  }
  return std::nullopt;
}

// Throws, or says that a store is replaced.
void check_replaced(const fs::path& folder, const DatasetInfo& inputs, OnOtherStore on_other) {
  if (!is_store(folder)) return;
  try {
    const TokenDataset there = open_store(folder);
    const auto list = fmt::format("{}", fmt::join(differences_of(there.info(), inputs), "; "));
    if (on_other == OnOtherStore::kFail)
      throw ConfigError(
          "{}: contains a token store of other inputs. What differs: {}. Choose another output, or replace the store: "
          "--force.",
          folder.string(), list);
    log_info("{}: tokenizing again; what changed: {}", folder.string(), list);
  } catch (const DataError& error) {
    if (on_other == OnOtherStore::kFail) throw;
    log_warning("{} Tokenizing again.", error.what());
  }
}

/// The lock of a folder, which is created if it does not exist, and removed if nothing in it is worth keeping.
class StoreFolder {
 public:
  explicit StoreFolder(const fs::path& folder) : folder_(folder) {
    while (!lock_) {
      std::error_code error;
      is_new_ = fs::create_directories(folder, error);
      if (error) throw system_error(folder, "create the folder", error.value());
      try {
        lock_.emplace(folder, io::OnLocked::kWait);
      } catch (const DataError&) {
        if (fs::exists(folder)) throw;  // else another process has failed and removed it
      }
    }
  }
  ~StoreFolder() {
    std::error_code error;
    const bool is_kept = has_progress(folder_);
    if (is_store(folder_) || (is_new_ && !is_kept)) lock_->remove_file();
    if (is_new_ && !is_kept) fs::remove(folder_, error);  // fails if it contains something
  }
  StoreFolder(const StoreFolder&) = delete;
  StoreFolder& operator=(const StoreFolder&) = delete;

 private:
  const fs::path& folder_;
  bool is_new_ = false;
  std::optional<io::DirectoryLock> lock_;
};

}  // namespace

TokenDataset open_store(const fs::path& folder, OnDamage on_damage) {
  UniqueFd lock = io::lock_for_use(folder / kStoreFile);
  StoreRecord record = read_store_record(folder);
  auto storage = std::make_shared<const StoreStorage>(folder, record, on_damage, std::move(lock));
  return {std::move(record.info), std::move(record.fingerprint), std::move(storage)};
}

bool remove_if_unused(const fs::path& folder) {
  const auto of_builder = io::lock_if_unused(folder / io::DirectoryLock::kFileName);
  const auto of_readers = io::lock_if_unused(folder / kStoreFile);
  if (!of_builder || !of_readers) return false;
  remove_or_warn(folder);
  return true;
}

void verify_store(const fs::path& folder, Progress& progress) {
  const StoreRecord record = read_store_record(folder);
  const StoreStorage storage(folder, record);
  progress.set_total(record.info.counts.tokens);
  DocumentHash hash;
  std::int64_t document = 0, tokens = 0, text_bytes = 0;
  std::vector<std::int32_t> ids;
  for (const auto& shard : storage.shards()) {
    shard->verify();
    for (std::int64_t i = 0; i < shard->num_documents(); ++i, ++document) {
      ids.resize(static_cast<std::size_t>(shard->document_tokens(i)));
      shard->read(i, 0, ids);
      hash.append(ids);
      hash.end_document(shard->document_bytes(i), shard->untrained(i));
      text_bytes += shard->document_bytes(i);
      tokens += std::ssize(ids);
      throw_if_interrupted();
      progress.update(tokens, tokens);
    }
  }
  if (hash.state() != record.fingerprint || text_bytes != record.info.counts.bytes)
    throw DataError(
        "{}: its documents do not match its record: found {} bytes of text and the fingerprint {}; "
        "expected {} and {}. Delete the folder and tokenize again.",
        folder.string(), text_bytes, hash.state(), record.info.counts.bytes, record.fingerprint);
  progress.finish();
}

StoreWriter::StoreWriter(fs::path folder, const DatasetInfo& inputs, const StoreOptions& options)
    : folder_(std::move(folder)),
      shard_bytes_(options.shard_bytes),
      on_damage_(on_damage_of(options)),
      id_bytes_(bytes_per_id(inputs.vocab_size)),
      vocab_size_(inputs.vocab_size),
      inputs_(inputs_of(inputs, options.shard_bytes)) {
  if (!resume(options.on_other)) {
    shards_.clear();
    documents_ = DocumentHash();
    text_bytes_ = 0;
    place_ = Json();
  }
  remove_files_of_others();
}

// Whether an earlier process finished shards of the same store.
bool StoreWriter::resume(OnOtherStore on_other) {
  if (is_store(folder_)) return false;
  try {
    const std::optional<StoreProgress> progress = read_progress(folder_);
    if (!progress) return false;
    if (progress->inputs != inputs_) {
      if (on_other == OnOtherStore::kFail)
        throw ConfigError(
            "{}: contains {} finished shards of a token store of other text, options, tokenizer or shard size (a file "
            "that was written again counts as changed). Choose another output, or replace them: --force.",
            folder_.string(), progress->shards.size());
      log_info("{}: contains part of a store of other text, options, tokenizer or shard size; starting again",
               folder_.string());
      return false;
    }
    for (const ShardRecord& shard : progress->shards) {
      const Shard check(folder_ / shard_name(shards_.size()), shard, vocab_size_);
      shards_.push_back(shard);
    }
    documents_ = DocumentHash(progress->documents);
    text_bytes_ = progress->text_bytes;
    place_ = progress->place;
  } catch (const DataError& error) {
    log_warning("{} Starting again.", error.what());
    return false;
  }
  std::int64_t tokens = 0;
  for (const ShardRecord& shard : shards_) tokens += shard.tokens;
  log_info("{}: going on after {} finished shards with {} tokens", folder_.string(), shards_.size(),
           format_count(tokens));
  return true;
}

void StoreWriter::remove_files_of_others() const {
  if (shards_.empty()) {
    remove_store_record(folder_);  // first: without it the rest is no store
    remove_progress(folder_);
  }
  io::remove_temporaries(folder_);
  std::error_code error;
  std::vector<fs::path> others;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::optional<std::size_t> number = shard_number(it->path().filename());
    if (number && *number >= shards_.size()) others.push_back(it->path());
  }
  for (const fs::path& path : others) remove_or_warn(path);
}

void StoreWriter::append(std::span<const std::int32_t> ids) {
  if (ids.empty()) return;
  if (!writer_) writer_ = std::make_unique<ShardWriter>(folder_ / shard_name(shards_.size()), id_bytes_);
  writer_->append(ids);
  documents_.append(ids);
}

void StoreWriter::end_document(std::int64_t text_bytes, const Untrained& untrained, PlaceInSource place) {
  writer_->end_document(text_bytes, untrained);
  documents_.end_document(text_bytes, untrained);
  text_bytes_ += text_bytes;
  if (writer_->num_bytes() < shard_bytes_) return;
  finish_shard();
  write_progress(folder_, {.inputs = inputs_,
                           .shards = shards_,
                           .documents = documents_.state(),
                           .text_bytes = text_bytes_,
                           .place = place()});
}

void StoreWriter::finish_shard() {
  shards_.push_back(writer_->finish());
  writer_.reset();
}

TokenDataset StoreWriter::finish(DatasetInfo info) {
  if (writer_) finish_shard();
  info.counts.documents = info.counts.tokens = 0;
  info.counts.bytes = text_bytes_;
  for (const ShardRecord& shard : shards_) {
    info.counts.documents += shard.documents;
    info.counts.tokens += shard.tokens;
  }
  write_store_record(folder_, {.info = std::move(info), .fingerprint = documents_.state(), .shards = shards_});
  remove_progress(folder_);
  return open_store(folder_, on_damage_);
}

TokenDataset build_store(const fs::path& folder, const DatasetInfo& inputs, const StoreOptions& options,
                         FunctionRef<DatasetInfo(StoreWriter& writer)> fill) {
  check_folder(folder);
  if (const auto same = find_same(folder, inputs, options)) return *same;
  const StoreFolder locked(folder);
  if (const auto same = find_same(folder, inputs, options)) return *same;  // that another process has built meanwhile
  check_replaced(folder, inputs, options.on_other);
  StoreWriter writer(folder, inputs, options);
  DatasetInfo info = fill(writer);
  return writer.finish(std::move(info));
}

}  // namespace adept::data
