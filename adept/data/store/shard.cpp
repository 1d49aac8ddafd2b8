#include "adept/data/store/shard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/signals.h"
#include "adept/data/store/store_record.h"

static_assert(std::endian::native == std::endian::little, "token stores are little endian");

namespace adept::data {
namespace {

constexpr std::string_view kStartMagic = "ADEPTTOK", kEndMagic = "ADEPTEND";
constexpr std::uint32_t kOldestShardVersion = 2, kShardVersion = 3, kSwappedShardVersion = kShardVersion << 24;
static_assert(sizeof(TokenSpan) == 8, "spans are stored as they are in memory");
constexpr std::size_t kShardBlockBytes = std::size_t{64} << 10;
constexpr std::size_t kShardBufferBytes = 16 * kShardBlockBytes;

struct ShardHeader {
  std::array<char, 8> magic{};
  std::uint32_t version = kShardVersion;
  std::uint32_t id_bytes = 0;
};
static_assert(sizeof(ShardHeader) == 16);

struct ShardFooter {
  std::uint64_t num_documents = 0;
  std::uint64_t num_tokens = 0;
  std::uint32_t number_bytes = 0;
  std::uint32_t block_bytes = kShardBlockBytes;
  std::array<char, 40> hash{};
  std::array<char, 8> magic{};
};
static_assert(sizeof(ShardFooter) == 72);

template <std::size_t N>
std::array<char, N> padded_text(std::string_view text) {
  std::array<char, N> array{};
  std::copy_n(text.begin(), std::min(text.size(), N), array.begin());
  return array;
}

template <std::size_t N>
std::string_view text_in(const std::array<char, N>& array) {
  const std::string_view text(array.data(), N);
  return text.substr(0, text.find('\0'));
}

template <typename T>
std::span<const std::byte> bytes_of_value(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

std::size_t padded_size(std::size_t size) { return (size + 7) / 8 * 8; }

template <typename T>
T value_at(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <typename T, typename From>
void pack(std::span<const From> values, std::byte* to) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<T>(values[i]);
    std::memcpy(to + i * sizeof(T), &value, sizeof(T));
  }
}

// Values as numbers of `width` bytes, padded.
template <typename From>
std::vector<std::byte> packed_part(const std::vector<From>& values, std::size_t width) {
  std::vector<std::byte> bytes(padded_size(values.size() * width));
  const std::span<const From> span(values);
  if (width == 2)
    pack<std::uint16_t>(span, bytes.data());
  else if (width == 4)
    pack<std::uint32_t>(span, bytes.data());
  else
    pack<std::uint64_t>(span, bytes.data());
  return bytes;
}

std::shared_ptr<const io::MappedFile> open_shard(const std::filesystem::path& path) {
  if (!is_present(path))
    throw DataError("{}: this shard of the token store is missing. Delete the folder {} and tokenize again.",
                    path.string(), path.parent_path().string());
  return io::MappedFile::open(path);
}

}  // namespace

int bytes_per_id(std::int64_t vocab_size) { return vocab_size <= 65'536 ? 2 : 4; }

ShardWriter::ShardWriter(const std::filesystem::path& path, int id_bytes) : file_(path), id_bytes_(id_bytes) {
  buffer_.reserve(kShardBufferBytes);
  const ShardHeader header{.magic = padded_text<8>(kStartMagic), .id_bytes = static_cast<std::uint32_t>(id_bytes)};
  write_hashed(bytes_of_value(header));
}

void ShardWriter::write_hashed(std::span<const std::byte> part) {
  hasher_.update(part);
  file_.write(part);
}

void ShardWriter::write_blocks(bool last) {
  std::span<const std::byte> rest = buffer_;
  while (rest.size() >= kShardBlockBytes || (last && !rest.empty())) {
    const auto block = rest.first(std::min(rest.size(), kShardBlockBytes));
    block_hashes_.push_back(short_hash_of(block));
    rest = rest.subspan(block.size());
  }
  ADEPT_CHECK(rest.empty(), "{} bytes that are no block", rest.size());
  file_.write(buffer_);
  buffer_.clear();
}

void ShardWriter::append(std::span<const std::int32_t> ids) {
  if (ids.empty()) return;
  last_id_ = ids.back();
  num_tokens_ += std::ssize(ids);
  const auto width = static_cast<std::size_t>(id_bytes_);
  while (!ids.empty()) {
    const auto part = ids.first(std::min(ids.size(), (kShardBufferBytes - buffer_.size()) / width));
    const std::size_t at = buffer_.size();
    buffer_.resize(at + part.size() * width);
    if (width == 2)
      pack<std::uint16_t>(part, buffer_.data() + at);
    else
      std::memcpy(buffer_.data() + at, part.data(), part.size_bytes());
    if (buffer_.size() == kShardBufferBytes) write_blocks(/*last=*/false);
    ids = ids.subspan(part.size());
  }
}

void ShardWriter::end_document(std::int64_t text_bytes, const Untrained& untrained) {
  ends_.push_back(static_cast<std::uint64_t>(num_tokens_));
  text_bytes_.push_back(static_cast<std::uint64_t>(text_bytes));
  last_ids_.push_back(last_id_);
  if (untrained.empty()) return;
  span_ends_.resize(ends_.size() - 1, spans_.size());
  untrained_bytes_.resize(ends_.size() - 1, 0);
  spans_.insert(spans_.end(), untrained.spans.begin(), untrained.spans.end());
  span_ends_.push_back(spans_.size());
  untrained_bytes_.push_back(static_cast<std::uint64_t>(untrained.bytes));
}

void ShardWriter::write_untrained(std::size_t number_bytes) {
  const std::uint64_t num_spans = spans_.size();
  write_hashed(bytes_of_value(num_spans));
  if (num_spans == 0) return;
  span_ends_.resize(ends_.size(), num_spans);
  untrained_bytes_.resize(ends_.size(), 0);
  write_hashed(packed_part(span_ends_, number_bytes));
  write_hashed(packed_part(untrained_bytes_, number_bytes));
  write_hashed(std::as_bytes(std::span(spans_)));
}

ShardRecord ShardWriter::finish() {
  write_blocks(/*last=*/true);
  const auto id_size = static_cast<std::size_t>(num_bytes());
  write_hashed(std::vector<std::byte>(padded_size(id_size) - id_size));
  auto largest = static_cast<std::uint64_t>(num_tokens_);
  for (const std::uint64_t bytes : text_bytes_) largest = std::max(largest, bytes);
  const std::size_t width = largest <= std::numeric_limits<std::uint32_t>::max() ? 4 : 8;
  write_hashed(packed_part(ends_, width));
  write_hashed(packed_part(text_bytes_, width));
  write_hashed(packed_part(last_ids_, static_cast<std::size_t>(id_bytes_)));
  write_untrained(width);
  write_hashed(packed_part(block_hashes_, 8));
  ShardFooter footer{.num_documents = ends_.size(),
                     .num_tokens = static_cast<std::uint64_t>(num_tokens_),
                     .number_bytes = static_cast<std::uint32_t>(width),
                     .magic = padded_text<8>(kEndMagic)};
  hasher_.update(bytes_of_value(footer).first(offsetof(ShardFooter, hash)));
  footer.hash = padded_text<40>(hasher_.digest());
  file_.write(bytes_of_value(footer));
  file_.commit();
  return {.documents = std::ssize(ends_), .tokens = num_tokens_, .hash = std::string(text_in(footer.hash))};
}

Shard::Shard(const std::filesystem::path& path, const ShardRecord& record, std::int64_t vocab_size, OnDamage on_damage)
    : file_(open_shard(path)),
      bytes_(file_->bytes()),
      record_(record),
      vocab_size_(vocab_size),
      on_damage_(on_damage),
      id_bytes_(static_cast<std::size_t>(bytes_per_id(vocab_size))) {
  read_frame();
  checked_blocks_ = std::vector<std::atomic<std::uint64_t>>((num_blocks_ + 63) / 64);
}

void Shard::fail(const std::string& problem) const {
  throw DataError("{}: {}. Delete the folder {} and tokenize again.", file_->path().string(), problem,
                  file_->path().parent_path().string());
}

void Shard::fail_damaged(const std::string& problem) const {
  if (on_damage_ == OnDamage::kKeep) fail(problem);
  const std::filesystem::path folder = file_->path().parent_path();
  remove_store_record(folder);
  throw DataError("{}: {}. The store {} is discarded: repeat the command, and the text is tokenized again.",
                  file_->path().string(), problem, folder.string());
}

void Shard::read_frame() {
  if (bytes_.size() < sizeof(ShardHeader) + sizeof(ShardFooter))
    fail(fmt::format("{} bytes are too few for tokens; it is cut short, or another kind of file", bytes_.size()));
  const auto header = value_at<ShardHeader>(bytes_, 0);
  if (text_in(header.magic) != kStartMagic)
    fail(fmt::format("does not contain tokens; expected \"{}\" at its start", kStartMagic));
  if (header.version == kSwappedShardVersion) fail("was written on a machine of another byte order");
  if (header.version < kOldestShardVersion || header.version > kShardVersion)
    fail(fmt::format("has format version {}; this build reads versions {} to {}", header.version, kOldestShardVersion,
                     kShardVersion));
  footer_ = bytes_.size() - sizeof(ShardFooter);
  const auto footer = value_at<ShardFooter>(bytes_, footer_);
  if (text_in(footer.magic) != kEndMagic)
    fail(fmt::format("has {} bytes and no \"{}\" at its end; it is cut short or damaged", bytes_.size(), kEndMagic));
  if (header.id_bytes != id_bytes_)
    fail(fmt::format("has {} bytes per id; expected {} for a vocabulary of {} ids", header.id_bytes, id_bytes_,
                     vocab_size_));
  if (footer.num_documents != static_cast<std::uint64_t>(record_.documents) ||
      footer.num_tokens != static_cast<std::uint64_t>(record_.tokens) || footer.hash != padded_text<40>(record_.hash))
    fail(
        fmt::format("is not the file that the store's record names: it has {} documents, {} tokens and the hash {}; "
                    "expected {}, {} and {}",
                    footer.num_documents, footer.num_tokens, text_in(footer.hash), record_.documents, record_.tokens,
                    record_.hash));
  if ((footer.number_bytes != 4 && footer.number_bytes != 8) || footer.block_bytes != kShardBlockBytes)
    fail(fmt::format("has {} bytes per number and {} per block; expected 4 or 8, and {}", footer.number_bytes,
                     footer.block_bytes, kShardBlockBytes));
  number_bytes_ = footer.number_bytes;
  find_parts(header.version, footer.num_documents, footer.num_tokens);
}

void Shard::find_parts(std::uint32_t version, std::size_t num_documents, std::size_t num_tokens) {
  const auto fail_size = [&] {
    fail(fmt::format("{} bytes do not match the sizes in its footer; it is cut short or damaged", bytes_.size()));
  };
  // These bounds keep the sums below from overflowing.
  if (num_documents > bytes_.size() || num_tokens > bytes_.size()) fail_size();
  const std::size_t id_size = num_tokens * id_bytes_;
  num_blocks_ = (id_size + kShardBlockBytes - 1) / kShardBlockBytes;
  std::size_t at = sizeof(ShardHeader) + padded_size(id_size);
  const auto part = [&](std::size_t size) { return std::exchange(at, at + padded_size(size)); };
  ends_ = part(num_documents * number_bytes_);
  text_bytes_ = part(num_documents * number_bytes_);
  last_ids_ = part(num_documents * id_bytes_);
  if (version >= 3) {
    const std::size_t count = part(8);
    if (at > footer_) fail_size();
    num_spans_ = value_at<std::uint64_t>(bytes_, count);
    if (num_spans_ > bytes_.size()) fail_size();
  }
  if (num_spans_ > 0) {
    span_ends_ = part(num_documents * number_bytes_);
    untrained_bytes_ = part(num_documents * number_bytes_);
    spans_ = part(num_spans_ * sizeof(TokenSpan));
  }
  hashes_ = part(8 * num_blocks_);
  if (at != footer_) fail_size();
}

std::uint64_t Shard::number_at(std::size_t part, std::int64_t i) const {
  const std::size_t at = part + static_cast<std::size_t>(i) * number_bytes_;
  return number_bytes_ == 4 ? value_at<std::uint32_t>(bytes_, at) : value_at<std::uint64_t>(bytes_, at);
}

std::int32_t Shard::id_at(std::size_t part, std::int64_t i) const {
  const std::size_t at = part + static_cast<std::size_t>(i) * id_bytes_;
  return id_bytes_ == 2 ? value_at<std::uint16_t>(bytes_, at) : value_at<std::int32_t>(bytes_, at);
}

std::int64_t Shard::begin_of(std::int64_t i) const {
  return i == 0 ? 0 : static_cast<std::int64_t>(number_at(ends_, i - 1));
}

Untrained Shard::untrained_at(std::int64_t i) const {
  const std::uint64_t begin = i == 0 ? 0 : number_at(span_ends_, i - 1), end = number_at(span_ends_, i);
  if (end < begin || end > num_spans_)
    fail_damaged(fmt::format("document {} has the untrained spans {} to {}", i, begin, end));
  Untrained untrained{.spans = std::vector<TokenSpan>(end - begin),
                      .bytes = static_cast<std::int64_t>(number_at(untrained_bytes_, i))};
  if (begin < end)
    std::memcpy(untrained.spans.data(), bytes_.data() + spans_ + begin * sizeof(TokenSpan),
                (end - begin) * sizeof(TokenSpan));
  return untrained;
}

void Shard::require_index() const {
  if (index_is_checked_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  if (index_is_checked_.load(std::memory_order_relaxed)) return;
  check_index();
  index_is_checked_.store(true, std::memory_order_release);
}

// A file with a right hash can still be wrong: nothing of it is believed unchecked.
void Shard::check_index() const {
  const std::size_t end_of_ids = sizeof(ShardHeader) + static_cast<std::size_t>(record_.tokens) * id_bytes_;
  Hasher hasher;
  hasher.update(bytes_.first(sizeof(ShardHeader)));
  hasher.update(bytes_.subspan(end_of_ids, footer_ + offsetof(ShardFooter, hash) - end_of_ids));
  if (hasher.digest() != record_.hash)
    fail_damaged(fmt::format("its index, bytes {} to {}, does not match its hash; it is damaged", end_of_ids, footer_));
  std::int64_t begin = 0, all_bytes = 0;
  for (std::int64_t i = 0; i < record_.documents; ++i) {
    const auto end = static_cast<std::int64_t>(number_at(ends_, i));
    const auto text = static_cast<std::int64_t>(number_at(text_bytes_, i));
    const std::int32_t last = id_at(last_ids_, i);
    if (end <= begin || end > record_.tokens)
      fail_damaged(fmt::format("document {} is empty or ends before it starts: its ids are {} to {}", i, begin, end));
    if (text < 0 || __builtin_add_overflow(all_bytes, text, &all_bytes))
      fail_damaged(fmt::format("document {} has {} bytes of text", i, text));
    if (last < 0 || last >= vocab_size_)
      fail_damaged(
          fmt::format("document {} ends with the id {}, outside its vocabulary of {} ids", i, last, vocab_size_));
    if (num_spans_ > 0 && !is_valid(untrained_at(i), end - begin, text))
      fail_damaged(fmt::format("document {} has untrained tokens outside its {} ids and {} bytes, or in disorder", i,
                               end - begin, text));
    begin = end;
  }
  if (num_spans_ > 0 && number_at(span_ends_, record_.documents - 1) != num_spans_)
    fail_damaged(fmt::format("its documents do not have all of its {} untrained spans", num_spans_));
  if (begin != record_.tokens) fail_damaged(fmt::format("its documents have {} of {} ids", begin, record_.tokens));
}

void Shard::require_block(std::size_t block) const {
  std::atomic<std::uint64_t>& bits = checked_blocks_[block / 64];
  const std::uint64_t bit = std::uint64_t{1} << (block % 64);
  if ((bits.load(std::memory_order_acquire) & bit) != 0) return;
  const auto ids_per_block = static_cast<std::int64_t>(kShardBlockBytes / id_bytes_);
  const std::int64_t first = static_cast<std::int64_t>(block) * ids_per_block;
  const std::int64_t end = std::min(first + ids_per_block, record_.tokens);
  const auto ids =
      bytes_.subspan(sizeof(ShardHeader) + block * kShardBlockBytes, static_cast<std::size_t>(end - first) * id_bytes_);
  if (short_hash_of(ids) != value_at<std::uint64_t>(bytes_, hashes_ + 8 * block))
    fail_damaged(fmt::format("block {}, ids {} to {}, does not match its hash; it is damaged", block, first, end - 1));
  for (std::int64_t i = first; i < end; ++i)
    if (const std::int32_t id = id_at(sizeof(ShardHeader), i); id < 0 || id >= vocab_size_)
      fail_damaged(fmt::format("its id {} is {}, outside its vocabulary of {} ids", i, id, vocab_size_));
  bits.fetch_or(bit, std::memory_order_release);
}

std::int64_t Shard::document_tokens(std::int64_t i) const {
  require_index();
  return static_cast<std::int64_t>(number_at(ends_, i)) - begin_of(i);
}

std::int64_t Shard::document_bytes(std::int64_t i) const {
  require_index();
  return static_cast<std::int64_t>(number_at(text_bytes_, i));
}

std::int32_t Shard::last_token(std::int64_t i) const {
  require_index();
  return id_at(last_ids_, i);
}

Untrained Shard::untrained(std::int64_t i) const {
  if (num_spans_ == 0) return {};
  require_index();
  return untrained_at(i);
}

void Shard::read(std::int64_t i, std::int64_t begin, std::span<std::int32_t> out) const {
  require_index();
  const std::size_t at = static_cast<std::size_t>(begin_of(i) + begin) * id_bytes_;
  const std::size_t end = at + out.size() * id_bytes_;
  for (std::size_t block = at / kShardBlockBytes; block * kShardBlockBytes < end; ++block) require_block(block);
  const std::byte* from = bytes_.data() + sizeof(ShardHeader) + at;
  if (id_bytes_ == 4) {
    std::memcpy(out.data(), from, out.size_bytes());
    return;
  }
  for (std::size_t k = 0; k < out.size(); ++k) {
    std::uint16_t id;
    std::memcpy(&id, from + 2 * k, 2);
    out[k] = id;
  }
}

void Shard::verify() const {
  require_index();
  for (std::size_t block = 0; block < num_blocks_; ++block) {
    throw_if_interrupted();
    require_block(block);
  }
  for (std::int64_t i = 0; i < record_.documents; ++i) {
    const std::int32_t last = id_at(sizeof(ShardHeader), static_cast<std::int64_t>(number_at(ends_, i)) - 1);
    if (last != id_at(last_ids_, i))
      fail_damaged(fmt::format("document {} ends with the id {}, but its index says {}", i, last, id_at(last_ids_, i)));
  }
}

}  // namespace adept::data
