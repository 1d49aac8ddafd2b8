// Reads and checks the header of a GGUF file. Lengths are untrusted until compared with the remaining size of the file,
// so memory stays within a small multiple of that size.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "adept/core/error.h"
#include "adept/io/gguf.h"
#include "adept/io/gguf_types.h"
#include "adept/io/text_quote.h"

namespace adept::io {
namespace {

constexpr std::uint64_t kMaxKeyBytes = 65535;  // the format's own limits
constexpr std::uint64_t kMaxTensorNameBytes = 64;
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr int kMaxArrayDepth = 4;         // this reader's limit; no known file nests arrays
constexpr std::size_t kMaxReported = 10;  // faults of tensors in one message

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto is_tail = [&](std::size_t i) { return (at(i) & 0xc0) == 0x80; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned first = at(i);
    const unsigned second = at(i + 1);
    if (first < 0x80) {
      i += 1;
    } else if (first >= 0xc2 && first <= 0xdf && is_tail(i + 1)) {
      i += 2;
    } else if (first >= 0xe0 && first <= 0xef && is_tail(i + 1) && is_tail(i + 2) &&
               !(first == 0xe0 && second < 0xa0) && !(first == 0xed && second >= 0xa0)) {
      i += 3;
    } else if (first >= 0xf0 && first <= 0xf4 && is_tail(i + 1) && is_tail(i + 2) && is_tail(i + 3) &&
               !(first == 0xf0 && second < 0x90) && !(first == 0xf4 && second >= 0x90)) {
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

bool multiply(std::uint64_t a, std::uint64_t b, std::uint64_t& product) {
  return !__builtin_mul_overflow(a, b, &product);
}

}  // namespace

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string where) : bytes_(bytes) { file_.where_ = std::move(where); }

  GgufFile parse() {
    read_start();
    const std::uint64_t num_tensors = read<std::uint64_t>("the number of tensors");
    const std::uint64_t num_values = read<std::uint64_t>("the number of metadata values");
    check_count(num_values, 8 + 1 + 4 + 1, "metadata values");
    for (std::uint64_t i = 0; i < num_values; ++i) read_key_and_value(i);
    check_count(num_tensors, 8 + 1 + 4 + 8 + 4 + 8, "tensors");
    std::vector<Entry> entries;
    entries.reserve(num_tensors);
    for (std::uint64_t i = 0; i < num_tensors; ++i) entries.push_back(read_entry(i));
    place_tensors(std::move(entries), alignment());
    return std::move(file_);
  }

 private:
  // A line of the tensor table.
  struct Entry {
    std::string name;
    std::vector<std::uint64_t> sizes;  // innermost first, as in the file
    std::uint32_t type;
    std::uint64_t offset;
  };

  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw DataError("{}: {}", file_.where_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::uint64_t left() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (size > left())
      fail("cut short: {} needs {} bytes at byte {}, but only {} are left. Copy or download the file again.", what,
           size, position_, left());
    const auto part = bytes_.subspan(position_, size);
    position_ += size;
    return part;
  }

  template <typename T>
  T read(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string_view read_string(std::uint64_t longest, std::string_view what) {
    const auto start = position_;
    const auto size = read<std::uint64_t>(what);
    if (size > longest) fail("{} at byte {} has {} bytes; expected at most {}.", what, start, size, longest);
    const auto part = take(size, what);
    const std::string_view text(reinterpret_cast<const char*>(part.data()), part.size());
    if (!is_utf8(text)) fail("{} at byte {} is not UTF-8.", what, start);
    return text;
  }

  void check_count(std::uint64_t count, std::uint64_t least_bytes_each, std::string_view what) const {
    if (count > left() / least_bytes_each)
      fail("claims {} {}, but only {} bytes are left after byte {}. The file is cut short or corrupt.", count, what,
           left(), position_);
  }

  void read_start() {
    const auto magic = take(4, "the magic");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0)
      fail("starts with {}; expected \"GGUF\". This is not a GGUF file (convert files in older formats again).",
           quoted_bytes(magic));
    file_.version_ = read<std::uint32_t>("the version");
    if ((file_.version_ & 0xffffu) == 0 && file_.version_ != 0)
      fail("is a big-endian file; expected a little-endian one. Convert the model without --bigendian.");
    if (file_.version_ != 2 && file_.version_ != 3)
      fail("has version {}; this build reads 2 and 3. Convert the model again with a current llama.cpp.",
           file_.version_);
  }

  static std::string quoted_bytes(std::span<const std::byte> bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
      const auto c = static_cast<unsigned char>(byte);
      text += c >= 0x20 && c < 0x7f ? std::string(1, static_cast<char>(c)) : fmt::format("\\x{:02x}", c);
    }
    return "\"" + text + "\"";
  }

  GgufValueType read_type(const std::string& key) {
    const auto number = read<std::uint32_t>("a value's type");
    if (number > static_cast<std::uint32_t>(GgufValueType::kFloat64))
      fail("the metadata key {} has the value type {}; expected 0 to 12.", quote(key), number);
    return static_cast<GgufValueType>(number);
  }

  void read_key_and_value(std::uint64_t index) {
    std::string key(read_string(kMaxKeyBytes, fmt::format("metadata key {}", index)));
    if (key.empty()) fail("metadata key {} is empty.", index);
    GgufValue value;
    value.type = read_type(key);
    if (const std::size_t size = gguf_scalar_size(value.type)) {
      value.bytes = take(size, "a value");
      if (value.type == GgufValueType::kBool && value.bytes.front() > std::byte{1})
        fail("the metadata key {} is the boolean {}; expected 0 or 1.", quote(key),
             static_cast<int>(value.bytes.front()));
    } else if (value.type == GgufValueType::kString) {
      value.bytes = std::as_bytes(std::span(read_string(left(), key)));
    } else {
      read_array(key, value, 1);
    }
    const auto [place, added] = file_.values_.emplace(key, std::move(value));
    if (!added) fail("the metadata key {} appears twice.", quote(key));
    file_.keys_.push_back(std::move(key));
  }

  void read_array(const std::string& key, GgufValue& value, int depth) {
    if (depth > kMaxArrayDepth) fail("the metadata key {} nests arrays deeper than {}.", quote(key), kMaxArrayDepth);
    value.element_type = read_type(key);
    value.count = read<std::uint64_t>("an array's length");
    if (const std::size_t size = gguf_scalar_size(value.element_type)) {
      check_count(value.count, size, "array elements");
      value.bytes = take(value.count * size, "an array");
    } else if (value.element_type == GgufValueType::kString) {
      check_count(value.count, 8, "strings in an array");
      value.strings.reserve(value.count);
      for (std::uint64_t i = 0; i < value.count; ++i) value.strings.push_back(read_string(left(), key));
    } else {  // arrays of arrays are skipped: nothing uses their values
      check_count(value.count, 4 + 8, "arrays in an array");
      for (std::uint64_t i = 0; i < value.count; ++i) {
        GgufValue inner;
        read_array(key, inner, depth + 1);
      }
    }
  }

  Entry read_entry(std::uint64_t index) {
    Entry entry;
    entry.name = read_string(kMaxTensorNameBytes, fmt::format("the name of tensor {}", index));
    if (entry.name.empty()) fail("the name of tensor {} is empty.", index);
    const auto num_dimensions = read<std::uint32_t>("a tensor's number of dimensions");
    if (num_dimensions < 1 || num_dimensions > kMaxDimensions)
      fail("tensor {} has {} dimensions; expected 1 to {}.", quote(entry.name), num_dimensions, kMaxDimensions);
    for (std::uint32_t i = 0; i < num_dimensions; ++i) entry.sizes.push_back(read<std::uint64_t>("a tensor's shape"));
    entry.type = read<std::uint32_t>("a tensor's type");
    entry.offset = read<std::uint64_t>("a tensor's offset");
    return entry;
  }

  std::uint64_t alignment() const {
    const auto alignment = file_.integer("general.alignment").value_or(kDefaultAlignment);
    if (alignment <= 0 || !std::has_single_bit(static_cast<std::uint64_t>(alignment)))
      fail("general.alignment is {}; expected a power of two.", alignment);
    return static_cast<std::uint64_t>(alignment);
  }

  void place_tensors(std::vector<Entry> entries, std::uint64_t alignment) {
    const std::uint64_t padding = padding_at(position_, alignment);
    const bool has_data = padding <= left();
    const std::span<const std::byte> data = has_data ? bytes_.subspan(position_ + padding) : bytes_.subspan(0, 0);
    std::vector<std::string> problems;
    bool unsupported = false;
    for (Entry& entry : entries) {
      if (file_.index_.contains(entry.name)) {
        problems.push_back(fmt::format("tensor {} appears twice", quote(entry.name)));
        continue;
      }
      const auto type = supported_ggml_type(entry.type);
      if (!type) {
        problems.push_back(
            fmt::format("tensor {} is stored as {}", quote(entry.name), ggml_name_of_number(entry.type)));
        unsupported = true;
        continue;
      }
      if (std::string problem = place_tensor(entry, *type, data, alignment); !problem.empty())
        problems.push_back(fmt::format("tensor {} {}", quote(entry.name), problem));
    }
    if (problems.empty()) check_overlap(problems);
    if (problems.empty() && has_data) account_for_bytes(data, padding, alignment, problems);
    if (problems.empty()) return;
    std::string advice = "The file is corrupt or cut short; copy or download it again.";
    if (unsupported)
      advice = fmt::format("This build reads {}. Use a file with these types (llama-quantize can create one).",
                           supported_ggml_names());
    fail_all(problems, advice);
  }

  // Adds the tensor to the file; otherwise returns what is wrong with it.
  std::string place_tensor(Entry& entry, GgmlType type, std::span<const std::byte> data, std::uint64_t alignment) {
    const GgmlBlock block = ggml_block(type);
    const auto block_elements = static_cast<std::uint64_t>(block.elements);
    std::uint64_t elements = 1;
    for (const std::uint64_t size : entry.sizes) {
      if (size == 0) return "has a dimension of 0";
      if (!multiply(elements, size, elements) ||
          elements > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 4)
        return "has a shape of more than 2^61 elements";
    }
    if (entry.sizes.front() % block_elements != 0)
      return fmt::format("has rows of {} elements; {} needs a multiple of {}", entry.sizes.front(), ggml_name(type),
                         block_elements);
    std::uint64_t size = 0;
    if (!multiply(elements / block_elements, static_cast<std::uint64_t>(block.bytes), size))
      return "has a shape of more than 2^64 bytes";
    if (entry.offset % alignment != 0)
      return fmt::format("begins at offset {}; expected a multiple of {}", entry.offset, alignment);
    if (entry.offset > data.size() || size > data.size() - entry.offset)
      return fmt::format("needs {} bytes at offset {} of the data, which has {}", size, entry.offset, data.size());
    GgufTensor tensor;
    tensor.name = std::move(entry.name);
    tensor.type = type;
    tensor.shape.assign(entry.sizes.rbegin(), entry.sizes.rend());
    tensor.data = data.subspan(entry.offset, size);
    file_.index_.emplace(tensor.name, file_.tensors_.size());
    file_.tensors_.push_back(std::move(tensor));
    return {};
  }

  std::vector<const GgufTensor*> by_position() const {
    std::vector<const GgufTensor*> sorted;
    for (const GgufTensor& tensor : file_.tensors_) sorted.push_back(&tensor);
    std::ranges::sort(sorted, {}, [](const GgufTensor* tensor) { return tensor->data.data(); });
    return sorted;
  }

  void check_overlap(std::vector<std::string>& problems) const {
    const std::vector<const GgufTensor*> sorted = by_position();
    for (std::size_t i = 1; i < sorted.size(); ++i) {
      const auto& before = sorted[i - 1]->data;
      if (before.data() + before.size() > sorted[i]->data.data())
        problems.push_back(
            fmt::format("tensors {} and {} overlap", quote(sorted[i - 1]->name), quote(sorted[i]->name)));
    }
  }

  static std::uint64_t padding_at(std::uint64_t position, std::uint64_t alignment) {
    return (alignment - position % alignment) % alignment;
  }

  // All bytes before, between and after the tensors must be padding: otherwise the table is incomplete, and every
  // tensor may be read from the wrong offset.
  void account_for_bytes(std::span<const std::byte> data, std::uint64_t first_padding, std::uint64_t alignment,
                         std::vector<std::string>& problems) const {
    const auto check = [&](std::span<const std::byte> gap, std::uint64_t allowed, const std::string& where) {
      if (gap.size() > allowed)
        problems.push_back(
            fmt::format("{} bytes {} do not belong to any of the {} tensors; expected at most {} bytes of padding",
                        gap.size(), where, file_.tensors_.size(), allowed));
      else if (std::ranges::any_of(gap, [](std::byte byte) { return byte != std::byte{0}; }))
        problems.push_back(
            fmt::format("the {} bytes {} do not belong to any of the {} tensors; expected padding, which is zero",
                        gap.size(), where, file_.tensors_.size()));
    };
    check(bytes_.subspan(position_, first_padding), first_padding, "after the table of tensors");
    std::uint64_t end = 0;
    for (const GgufTensor* tensor : by_position()) {
      const auto begin = static_cast<std::uint64_t>(tensor->data.data() - data.data());
      check(data.subspan(end, begin - end), padding_at(end, alignment), fmt::format("before {}", quote(tensor->name)));
      end = begin + tensor->data.size();
    }
    check(data.subspan(end), padding_at(end, alignment), "at the end of the file");
  }

  [[noreturn]] void fail_all(const std::vector<std::string>& problems, const std::string& advice) const {
    if (problems.size() == 1) fail("{}. {}", problems.front(), advice);
    std::string list;
    for (std::size_t i = 0; i < std::min(problems.size(), kMaxReported); ++i) list += "\n  " + problems[i];
    if (problems.size() > kMaxReported) list += fmt::format("\n  and {} more", problems.size() - kMaxReported);
    fail("{} faults:{}\n{}", problems.size(), list, advice);
  }

  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
  GgufFile file_;
};

std::shared_ptr<const GgufFile> GgufFile::parse(std::span<const std::byte> bytes, std::string where) {
  return std::make_shared<const GgufFile>(GgufParser(bytes, std::move(where)).parse());
}

std::shared_ptr<const GgufFile> GgufFile::open(const std::filesystem::path& path) {
  auto mapping = MappedFile::open(path);
  auto file = std::make_shared<GgufFile>(GgufParser(mapping->bytes(), path.string()).parse());
  file->mapping_ = std::move(mapping);
  return file;
}

}  // namespace adept::io
