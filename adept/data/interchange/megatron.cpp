#include "adept/data/interchange/megatron.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <system_error>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/data/interchange/token_files.h"
#include "adept/io/mapped_file.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIdxMagic("MMIDIDX\0\0", 9);
constexpr std::uint64_t kIdxVersion = 1;
constexpr std::size_t kIdxHeader = 9 + 8 + 1 + 8 + 8;
constexpr std::size_t kBinBuffer = std::size_t{1} << 20;
constexpr std::size_t kIdsAtOnce = std::size_t{1} << 16;
constexpr std::uint8_t kInt32Code = 4, kUint16Code = 8;

struct MegatronType {
  std::uint8_t code;
  const char* name;
  std::size_t size;  // of an id; 0: not for ids
};
constexpr MegatronType kMegatronTypes[] = {{1, "uint8", 1}, {2, "int8", 1},    {3, "int16", 2},   {4, "int32", 4},
                                           {5, "int64", 8}, {6, "float64", 0}, {7, "float32", 0}, {8, "uint16", 2}};

template <typename T>
T number_in(std::span<const std::byte> bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::int64_t id_in(std::span<const std::byte> bytes, std::size_t at, std::uint8_t code) {
  switch (code) {
    case 1:
      return number_in<std::uint8_t>(bytes, at);
    case 2:
      return number_in<std::int8_t>(bytes, at);
    case 3:
      return number_in<std::int16_t>(bytes, at);
    case 4:
      return number_in<std::int32_t>(bytes, at);
    case 8:
      return number_in<std::uint16_t>(bytes, at);
    default:
      return number_in<std::int64_t>(bytes, at);
  }
}

class MegatronReader : public TokenFileReader {
 public:
  explicit MegatronReader(const fs::path& bin)
      : bin_path_(bin),
        idx_path_(fs::path(bin).replace_extension(".idx")),
        bin_(io::MappedFile::open(bin_path_)),
        idx_(io::MappedFile::open(idx_path_)) {
    read_header();
    check_sequences();
    check_documents();
  }

  std::int64_t num_documents() const override { return num_documents_; }
  std::int64_t bytes_before(std::int64_t i) const override {
    const auto sequence = static_cast<std::size_t>(first_sequence(i));
    return sequence == num_sequences_ ? std::ssize(bin_->bytes()) : offset(sequence);
  }
  void read(std::int64_t i, FunctionRef<void(std::span<const std::int64_t>)> sink) const override {
    std::vector<std::int64_t> ids;
    for (std::int64_t s = first_sequence(i); s < first_sequence(i + 1); ++s) {
      auto at = static_cast<std::size_t>(offset(static_cast<std::size_t>(s)));
      for (std::int64_t k = 0; k < length(static_cast<std::size_t>(s)); ++k, at += type_.size) {
        ids.push_back(id_in(bin_->bytes(), at, type_.code));
        if (ids.size() < kIdsAtOnce) continue;
        sink(ids);
        ids.clear();
      }
    }
    if (!ids.empty()) sink(ids);
  }
  std::optional<std::int64_t> last_id(std::int64_t i) const override {
    for (std::int64_t s = first_sequence(i + 1); s-- > first_sequence(i);) {
      const auto sequence = static_cast<std::size_t>(s);
      if (length(sequence) > 0)
        return id_in(
            bin_->bytes(),
            static_cast<std::size_t>(offset(sequence)) + static_cast<std::size_t>(length(sequence) - 1) * type_.size,
            type_.code);
    }
    return std::nullopt;
  }
  const fs::path& path() const override { return bin_path_; }

 private:
  [[noreturn]] void fail(const std::string& problem) const { throw DataError("{}: {}.", idx_path_.string(), problem); }

  std::int32_t length(std::size_t s) const { return number_in<std::int32_t>(idx_->bytes(), kIdxHeader + 4 * s); }
  std::int64_t offset(std::size_t s) const {
    return number_in<std::int64_t>(idx_->bytes(), kIdxHeader + 4 * num_sequences_ + 8 * s);
  }
  std::int64_t first_sequence(std::int64_t document) const {
    return number_in<std::int64_t>(idx_->bytes(),
                                   kIdxHeader + 12 * num_sequences_ + 8 * static_cast<std::size_t>(document));
  }

  void read_header() {
    const auto bytes = idx_->bytes();
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!text.starts_with(kIdxMagic))
      fail(fmt::format("is not an index of Megatron-Core; expected \"MMIDIDX\" at its start"));
    if (bytes.size() < kIdxHeader) fail(fmt::format("is cut short: it has {} bytes", bytes.size()));
    const auto version = number_in<std::uint64_t>(bytes, 9);
    if (version == kIdxVersion << 56) fail("was written on a machine of another byte order");
    if (version != kIdxVersion) fail(fmt::format("has version {}; expected {}", version, kIdxVersion));
    const auto code = number_in<std::uint8_t>(bytes, 17);
    const auto* type = std::find_if(std::begin(kMegatronTypes), std::end(kMegatronTypes),
                                    [&](const MegatronType& known) { return known.code == code; });
    if (type == std::end(kMegatronTypes)) fail(fmt::format("has dtype {}; expected 1 to 8", code));
    if (type->size == 0) fail(fmt::format("has dtype {} ({}); expected integers", code, type->name));
    type_ = *type;
    const auto sequences = number_in<std::uint64_t>(bytes, 18), ends = number_in<std::uint64_t>(bytes, 26);
    const std::uint64_t size = bytes.size();
    // The first two bounds keep the sum from overflowing.
    const bool fits = sequences <= size && ends <= size && kIdxHeader + 12 * sequences + 8 * ends <= size;
    if (!fits || kIdxHeader + 12 * sequences + 8 * ends != size) {
      if (fits && kIdxHeader + 13 * sequences + 8 * ends == size)
        fail("is of a multimodal dataset: it has a mode per sequence; expected text only");
      fail(fmt::format("{} bytes do not match its {} sequences and {} document boundaries; it is cut short or damaged",
                       size, sequences, ends));
    }
    if (ends == 0) fail("has no document boundaries; expected at least one, 0");
    num_sequences_ = sequences;
    num_documents_ = static_cast<std::int64_t>(ends) - 1;
  }

  // Megatron-Core writes each id of the .bin once.
  void check_sequences() const {
    const std::int64_t size = std::ssize(bin_->bytes());
    std::int64_t covered = 0;
    for (std::size_t s = 0; s < num_sequences_; ++s) {
      const std::int64_t tokens = length(s), begin = offset(s);
      if (tokens < 0 || begin < 0 || begin > size || tokens > (size - begin) / static_cast<std::int64_t>(type_.size))
        fail(fmt::format(
            "sequence {} has {} tokens ({}) from byte {} on, but {} has {} bytes; it is cut short or damaged", s,
            tokens, type_.name, begin, bin_path_.string(), size));
      covered += tokens * static_cast<std::int64_t>(type_.size);
      if (covered > size) break;
    }
    if (covered != size)
      fail(fmt::format("its sequences have {} {} bytes, but {} has {}; they are not of one dataset",
                       covered > size ? "more than" : "only", std::min(covered, size), bin_path_.string(), size));
  }

  void check_documents() const {
    std::int64_t before = 0;
    for (std::int64_t i = 0; i <= num_documents_; ++i) {
      const std::int64_t first = first_sequence(i);
      if (first < before || first > static_cast<std::int64_t>(num_sequences_) || (i == 0 && first != 0))
        fail(fmt::format("document {} starts at sequence {}; expected {} to {}", i, first, before,
                         i == 0 ? 0 : static_cast<std::int64_t>(num_sequences_)));
      before = first;
    }
    if (before != static_cast<std::int64_t>(num_sequences_))
      fail(fmt::format("its documents have {} of {} sequences", before, num_sequences_));
  }

  fs::path bin_path_, idx_path_;
  std::shared_ptr<const io::MappedFile> bin_, idx_;
  MegatronType type_{};
  std::size_t num_sequences_ = 0;
  std::int64_t num_documents_ = 0;
};

template <typename T>
std::span<const std::byte> bytes_of_number(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

}  // namespace

std::unique_ptr<TokenFileReader> open_megatron(const fs::path& bin) { return std::make_unique<MegatronReader>(bin); }

MegatronWriter::MegatronWriter(const fs::path& prefix, std::int64_t vocab_size, std::int32_t eos)
    : idx_path_(prefix.string() + ".idx"),
      bin_(prefix.string() + ".bin"),
      idx_(idx_path_),
      is_narrow_(vocab_size < 65'500),
      eos_(eos) {}

void MegatronWriter::append(std::span<const std::int32_t> ids) {
  if (ids.empty()) return;
  last_id_ = ids.back();
  num_ids_ += std::ssize(ids);
  const std::size_t width = is_narrow_ ? 2 : 4, at = buffer_.size();
  buffer_.resize(at + ids.size() * width);
  for (std::size_t i = 0; i < ids.size(); ++i)
    std::memcpy(buffer_.data() + at + i * width, &ids[i], width);  // the low bytes come first
  if (buffer_.size() < kBinBuffer) return;
  bin_.write(buffer_);
  buffer_.clear();
}

void MegatronWriter::end_document(std::int64_t, const Untrained& untrained, PlaceInSource) {
  refuse_untrained(untrained, "the format of Megatron-Core");
  if (last_id_ != eos_) append(std::span(&eos_, 1));
  if (num_ids_ > std::numeric_limits<std::int32_t>::max())
    throw DataError("document {} has {} tokens; the format of Megatron-Core allows 2^31 - 1. Split it.",
                    lengths_.size(), num_ids_);
  lengths_.push_back(static_cast<std::int32_t>(num_ids_));
  num_ids_ = 0;
  last_id_ = -1;
}

void MegatronWriter::finish() {
  bin_.write(buffer_);
  const auto count = static_cast<std::uint64_t>(lengths_.size());
  idx_.write(kIdxMagic);
  idx_.write(bytes_of_number(kIdxVersion));
  idx_.write(bytes_of_number(is_narrow_ ? kUint16Code : kInt32Code));
  idx_.write(bytes_of_number(count));
  idx_.write(bytes_of_number(count + 1));
  idx_.write(std::as_bytes(std::span(lengths_)));
  std::vector<std::int64_t> numbers;
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    numbers.push_back(offset);
    offset += std::int64_t{length} * (is_narrow_ ? 2 : 4);
  }
  idx_.write(std::as_bytes(std::span(numbers)));
  numbers.clear();
  for (std::uint64_t i = 0; i <= count; ++i) numbers.push_back(static_cast<std::int64_t>(i));
  idx_.write(std::as_bytes(std::span(numbers)));
  // An index of an earlier call must never stand beside the new ids.
  if (std::error_code error; !fs::remove(fs::weakly_canonical(idx_path_, error), error) && error)
    throw system_error(idx_path_, "remove the old index", error.value());
  bin_.commit();
  idx_.commit();
}

}  // namespace adept::data
