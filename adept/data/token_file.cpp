#include "adept/data/token_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/io/mapped_file.h"

static_assert(std::endian::native == std::endian::little, "token files are little endian");

namespace adept::data {
namespace {

constexpr std::string_view kMagic = "ADEPTTOK";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kBufferedTokens = std::size_t{1} << 18;
constexpr std::size_t kBlockTokens = std::size_t{1} << 24;
constexpr std::size_t kHashedBytes = std::size_t{1} << 24;  // between two checks for a signal

struct Header {
  std::array<char, 8> magic{};
  std::uint32_t version = kVersion;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Header) == 16);

struct Footer {
  std::uint64_t num_documents = 0;
  std::uint64_t num_tokens = 0;
  std::uint64_t json_bytes = 0;
  std::array<char, 40> hash{};
};
static_assert(sizeof(Footer) == 64);

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// Throws InterruptedError after a signal.
void hash_arrays(Hasher& hasher, std::span<const std::int32_t> tokens, std::span<const std::int64_t> offsets,
                 std::span<const std::int64_t> bytes) {
  for (std::span<const std::byte> array : {std::as_bytes(tokens), std::as_bytes(offsets), std::as_bytes(bytes)})
    while (!array.empty()) {
      throw_if_interrupted();
      const auto part = array.first(std::min(array.size(), kHashedBytes));
      hasher.update(part);
      array = array.subspan(part.size());
    }
}

Header make_header() {
  Header header;
  std::copy(kMagic.begin(), kMagic.end(), header.magic.begin());
  return header;
}

std::array<char, 40> hash_metadata(const Header& header, const Footer& footer, std::string_view json) {
  Hasher hasher;
  hasher.update(bytes_of(header));
  hasher.update(bytes_of(footer).first(offsetof(Footer, hash))).update(json);
  std::array<char, 40> hash{};
  const std::string digest = hasher.digest();
  std::copy_n(digest.begin(), std::min(digest.size(), hash.size()), hash.begin());
  return hash;
}

void set_totals(SourceCounts& counts, std::int64_t num_tokens, std::span<const std::int64_t> bytes) {
  counts.documents = static_cast<std::int64_t>(bytes.size());
  counts.tokens = num_tokens;
  counts.bytes = std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

Json to_json(const DatasetInfo& info, const std::string& content_hash) {
  return Json{{"name", info.name},
              {"vocab_size", info.vocab_size},
              {"source_fingerprint", info.source_fingerprint},
              {"tokenizer_fingerprint", info.tokenizer_fingerprint},
              {"content_hash", content_hash},
              {"counts", to_json(info.counts)}};
}

/// A token file, checked part by part.
class TokenFileParser {
 public:
  TokenFileParser(const std::filesystem::path& path, std::span<const std::byte> file)
      : where_(path.string()), file_(file) {}

  void parse() {
    read_frame();
    read_json();
    check_documents();
    check_content();
  }

  std::span<const std::int32_t> tokens;
  std::span<const std::int64_t> offsets;
  std::span<const std::int64_t> bytes;
  DatasetInfo info;
  std::string content_hash;

 private:
  [[noreturn]] void fail(const std::string& problem) const { throw DataError("{}: {}.", where_, problem); }

  template <typename T>
  std::span<const T> take(std::size_t count) {
    const auto part = file_.subspan(at_, count * sizeof(T));
    at_ += part.size();
    return {reinterpret_cast<const T*>(part.data()), count};
  }

  void read_frame() {
    Header header;
    if (file_.size() < sizeof(Header) + sizeof(Footer))
      fail(
          fmt::format("{} bytes are too few for a token file; it is cut short, or another kind of file", file_.size()));
    std::memcpy(&header, file_.data(), sizeof header);
    if (std::string_view(header.magic.data(), header.magic.size()) != kMagic)
      fail(fmt::format("not a token file; expected \"{}\" at its start", kMagic));
    if (header.version != kVersion)
      fail(fmt::format("has format version {}; this build reads version {}", header.version, kVersion));
    std::memcpy(&footer_, file_.data() + file_.size() - sizeof footer_, sizeof footer_);
    // Each bound keeps the sum below from overflowing.
    const std::uint64_t size = file_.size();
    const auto [documents, num_tokens, json_bytes, hash] = footer_;
    if (documents > size / 16 || num_tokens > size / 4 || json_bytes > size) fail_size();
    const std::uint64_t token_bytes = (num_tokens * 4 + 7) / 8 * 8;
    if (sizeof(Header) + token_bytes + documents * 16 + 8 + json_bytes + sizeof(Footer) != size) fail_size();
    at_ = sizeof(Header);
    tokens = take<std::int32_t>(num_tokens);
    at_ = sizeof(Header) + token_bytes;
    offsets = take<std::int64_t>(documents + 1);
    bytes = take<std::int64_t>(documents);
    const auto json = take<char>(json_bytes);
    json_ = std::string_view(json.data(), json.size());
    if (hash_metadata(header, footer_, json_) != hash) fail("its header does not match its checksum; it is damaged");
  }

  [[noreturn]] void fail_size() const {
    fail(fmt::format("{} bytes do not match the sizes in its header; it is cut short or damaged", file_.size()));
  }

  void read_json() {
    const Json json = parse_json(json_, where_);
    const auto text = [&](const char* key) {
      const auto found = json.find(key);
      if (found == json.end() || !found->is_string()) fail(fmt::format("its header has no string \"{}\"", key));
      return found->get<std::string>();
    };
    if (!json.is_object()) fail("its header is not a JSON object");
    info.name = text("name");
    info.source_fingerprint = text("source_fingerprint");
    info.tokenizer_fingerprint = text("tokenizer_fingerprint");
    content_hash = text("content_hash");
    const auto vocab_size = json.find("vocab_size");
    if (vocab_size == json.end() || !vocab_size->is_number_integer() || vocab_size->get<std::int64_t>() < 1)
      fail("its header has no positive vocab_size");
    info.vocab_size = vocab_size->get<std::int64_t>();
    const auto counts = json.find("counts");
    info.counts = source_counts_from_json(counts == json.end() ? Json() : *counts, where_);
  }

  void check_documents() const {
    if (offsets.front() != 0 || offsets.back() != static_cast<std::int64_t>(tokens.size()))
      fail("its documents do not cover its tokens; it is damaged");
    std::int64_t total_bytes = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (offsets[i] >= offsets[i + 1]) fail(fmt::format("document {} is empty or ends before it starts", i));
      if (bytes[i] < 0 || __builtin_add_overflow(total_bytes, bytes[i], &total_bytes))
        fail(fmt::format("document {} has {} bytes of text", i, bytes[i]));
    }
  }

  void check_content() const {
    Hasher hasher;
    hash_arrays(hasher, tokens, offsets, bytes);
    if (hasher.digest() != content_hash) fail("its tokens do not match their checksum; it is damaged");
    const auto vocab_size = static_cast<std::uint64_t>(info.vocab_size);
    std::uint32_t largest = 0;  // a negative id is a large one
    for (const std::int32_t id : tokens) largest = std::max(largest, static_cast<std::uint32_t>(id));
    if (!tokens.empty() && largest >= vocab_size)
      fail(fmt::format("it contains the id {}, outside its vocabulary of {} ids", static_cast<std::int32_t>(largest),
                       info.vocab_size));
    SourceCounts totals = info.counts;
    set_totals(totals, static_cast<std::int64_t>(tokens.size()), bytes);
    if (totals != info.counts) fail("its counts do not match its documents");
  }

  std::string where_;
  std::span<const std::byte> file_;
  std::size_t at_ = 0;
  Footer footer_;
  std::string_view json_;
};

}  // namespace

void MemorySink::append(std::span<const std::int32_t> ids) {
  num_tokens_ += std::ssize(ids);
  while (!ids.empty()) {
    if (blocks_.empty() || blocks_.back().size() == kBlockTokens) blocks_.emplace_back();
    auto& block = blocks_.back();
    if (blocks_.size() > 1) block.reserve(kBlockTokens);
    const auto part = ids.first(std::min(ids.size(), kBlockTokens - block.size()));
    block.insert(block.end(), part.begin(), part.end());
    ids = ids.subspan(part.size());
  }
}

void MemorySink::end_document(std::int64_t text_bytes) {
  offsets_.push_back(num_tokens_);
  bytes_.push_back(text_bytes);
}

TokenDataset MemorySink::finish(DatasetInfo info) {
  struct Arrays {
    std::vector<std::int32_t> tokens;
    std::vector<std::int64_t> offsets, bytes;
  };
  set_totals(info.counts, num_tokens_, bytes_);
  const auto arrays = std::make_shared<Arrays>();
  arrays->tokens.reserve(static_cast<std::size_t>(num_tokens_));
  for (auto& block : std::exchange(blocks_, {})) {
    arrays->tokens.insert(arrays->tokens.end(), block.begin(), block.end());
    std::vector<std::int32_t>().swap(block);
  }
  arrays->offsets = std::exchange(offsets_, {0});
  arrays->bytes = std::exchange(bytes_, {});
  num_tokens_ = 0;
  auto data = std::make_shared<TokenDataset::Data>();
  data->info = std::move(info);
  data->tokens = arrays->tokens;
  data->offsets = arrays->offsets;
  data->bytes = arrays->bytes;
  data->owner = arrays;
  Hasher hasher;
  hash_arrays(hasher, data->tokens, data->offsets, data->bytes);
  data->fingerprint = hasher.digest();
  return TokenDataset(std::move(data));
}

FileSink::FileSink(std::filesystem::path path) : path_(std::move(path)), file_(path_) {
  file_.write(bytes_of(make_header()));
}

void FileSink::flush() {
  const auto bytes = std::as_bytes(std::span<const std::int32_t>(buffer_));
  hasher_.update(bytes);
  file_.write(bytes);
  buffer_.clear();
}

void FileSink::append(std::span<const std::int32_t> ids) {
  while (!ids.empty()) {
    const auto part = ids.first(std::min(ids.size(), kBufferedTokens));
    buffer_.insert(buffer_.end(), part.begin(), part.end());
    num_tokens_ += static_cast<std::int64_t>(part.size());
    if (buffer_.size() >= kBufferedTokens) flush();
    ids = ids.subspan(part.size());
  }
}

void FileSink::end_document(std::int64_t text_bytes) {
  offsets_.push_back(num_tokens_);
  bytes_.push_back(text_bytes);
}

TokenDataset FileSink::finish(DatasetInfo info) {
  flush();
  set_totals(info.counts, offsets_.back(), bytes_);
  hash_arrays(hasher_, {}, offsets_, bytes_);
  const std::string json = to_json(info, hasher_.digest()).dump(-1, ' ', false, Json::error_handler_t::replace);
  Footer footer;
  footer.num_documents = bytes_.size();
  footer.num_tokens = static_cast<std::uint64_t>(offsets_.back());
  footer.json_bytes = json.size();
  footer.hash = hash_metadata(make_header(), footer, json);
  if (offsets_.back() % 2 != 0) file_.write(bytes_of(std::int32_t{0}));
  file_.write(std::as_bytes(std::span(offsets_)));
  file_.write(std::as_bytes(std::span(bytes_)));
  file_.write(json);
  file_.write(bytes_of(footer));
  file_.commit();
  return TokenDataset::open(path_);
}

TokenDataset TokenDataset::open(const std::filesystem::path& path) {
  const auto file = io::MappedFile::open(path);
  TokenFileParser parser(path, file->bytes());
  parser.parse();
  auto data = std::make_shared<Data>();
  data->info = std::move(parser.info);
  data->fingerprint = std::move(parser.content_hash);
  data->tokens = parser.tokens;
  data->offsets = parser.offsets;
  data->bytes = parser.bytes;
  data->owner = file;
  return TokenDataset(std::move(data));
}

}  // namespace adept::data
