#include "adept/io/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <tuple>

#include "adept/core/error.h"
#include "adept/io/safetensors_header.h"
#include "adept/io/text_quote.h"

namespace adept::io {
namespace {

static_assert(std::endian::native == std::endian::little, "the tensors of a file are used in place");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::size_t kHeaderAlignment = 8;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The JSON text of the header, with its length checked against the file.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& where) {
  if (as_text(bytes).starts_with("version https://git-lfs"))
    throw DataError("{}: is a Git LFS pointer, not the file itself. Fetch the file with `git lfs pull`.", where);
  if (bytes.size() < kLengthBytes)
    throw DataError("{}: has {} bytes; expected at least {}. The file is cut short; download or copy it again.", where,
                    bytes.size(), kLengthBytes);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxSafetensorsHeader)
    throw DataError(
        "{}: the header's length is given as {} bytes; expected at most {}. This is not a safetensors file, or it is "
        "corrupt.",
        where, length, kMaxSafetensorsHeader);
  if (length > bytes.size() - kLengthBytes)
    throw DataError(
        "{}: the header's length is given as {} bytes, but only {} follow. The file is cut short; download or copy it "
        "again.",
        where, length, bytes.size() - kLengthBytes);
  const std::string_view text = as_text(bytes.subspan(kLengthBytes, length));
  if (!text.starts_with('{'))
    throw DataError("{}: the header starts with {}; expected '{{'. This is not a safetensors file, or it is corrupt.",
                    where, text.empty() ? std::string("nothing") : quote(text.substr(0, 1)));
  return text;
}

// Sorted by offset, each tensor must begin where the one before ended, and the last end with the file.
void check_layout(const std::vector<HeaderEntry>& entries, std::uint64_t data_size, const std::string& where) {
  std::uint64_t expected = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const HeaderEntry& entry = entries[i];
    if (entry.end > data_size)
      throw DataError(
          "{}: tensor {}: data_offsets [{}, {}] reach beyond the {} bytes of data in the file. The file is cut short "
          "or corrupt; download or copy it again.",
          where, quote(entry.name), entry.begin, entry.end, data_size);
    if (entry.begin < expected)
      throw DataError(
          "{}: tensor {}: data_offsets [{}, {}] overlap tensor {}, which ends at {}. The file is corrupt; download or "
          "copy it again.",
          where, quote(entry.name), entry.begin, entry.end, quote(entries[i - 1].name), expected);
    if (entry.begin > expected)
      throw DataError(
          "{}: tensor {}: data_offsets [{}, {}] leave a gap of {} bytes before it. The file is corrupt; download or "
          "copy it again.",
          where, quote(entry.name), entry.begin, entry.end, entry.begin - expected);
    expected = entry.end;
  }
  if (expected != data_size)
    throw DataError(
        "{}: the tensors end at byte {} of the data, but the file has {}. The file is corrupt; download or copy it "
        "again.",
        where, expected, data_size);
}

// The official library's order of element types, narrowest alignment first; it writes them in reverse order.
// https://github.com/huggingface/safetensors/blob/main/safetensors/src/tensor.rs (enum Dtype)
int dtype_rank(DType dtype) {
  constexpr std::array kOrder = {DType::kBool, DType::kU8,  DType::kI8,  DType::kF8E5M2, DType::kF8E4M3,
                                 DType::kI16,  DType::kU16, DType::kF16, DType::kBF16,   DType::kI32,
                                 DType::kU32,  DType::kF32, DType::kF64, DType::kI64,    DType::kU64};
  return static_cast<int>(std::find(kOrder.begin(), kOrder.end(), dtype) - kOrder.begin());
}

std::vector<TensorView> in_file_order(std::span<const TensorView> tensors) {
  std::vector<TensorView> order(tensors.begin(), tensors.end());
  std::sort(order.begin(), order.end(), [](const TensorView& a, const TensorView& b) {
    const int rank_a = dtype_rank(a.dtype), rank_b = dtype_rank(b.dtype);
    return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
  });
  return order;
}

void check_tensors(const std::filesystem::path& path, std::span<const TensorView> tensors) {
  std::vector<std::string_view> names;
  for (const TensorView& tensor : tensors) {
    ADEPT_CHECK(tensor.name != "__metadata__", "{}: this name is reserved", path.string());
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  ADEPT_CHECK(twice == names.end(), "{}: two tensors are named {}", path.string(), *twice);
}

std::string make_header(const std::filesystem::path& path, std::span<const TensorView> order,
                        const std::map<std::string, std::string>& metadata) {
  const auto json_string = [&](const std::string& text) {
    try {
      return nlohmann::json(text).dump();
    } catch (const nlohmann::json::exception&) {
      throw DataError("{}: the name {} is not UTF-8 and cannot be written.", path.string(), quote(text));
    }
  };
  const auto check_size = [&](std::size_t size) {
    if (size > kMaxSafetensorsHeader)
      throw DataError("{}: the header would have {} bytes or more; expected at most {}. Write more, smaller files.",
                      path.string(), size, kMaxSafetensorsHeader);
  };
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) header += json_string(key) + ":" + json_string(value) + ",";
    header.back() = '}';
    header += ',';
  }
  std::size_t offset = 0;
  for (const TensorView& tensor : order) {
    check_size(header.size() + tensor.name.size());
    header +=
        fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}},", json_string(tensor.name),
                    safetensors_name(tensor.dtype), fmt::join(tensor.shape, ","), offset, offset + tensor.num_bytes());
    offset += tensor.num_bytes();
  }
  if (header.back() == ',') header.pop_back();
  header += '}';
  header.append((kHeaderAlignment - header.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
  check_size(header.size());
  return header;
}

}  // namespace

std::int64_t TensorView::num_elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::size_t TensorView::num_bytes() const { return static_cast<std::size_t>(num_elements()) * dtype_size(dtype); }

bool TensorView::is_aligned() const { return reinterpret_cast<std::uintptr_t>(data.data()) % dtype_size(dtype) == 0; }

std::string describe(const TensorView& tensor) {
  return fmt::format("{} [{}]", safetensors_name(tensor.dtype), fmt::join(tensor.shape, ", "));
}

SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& where) {
  const std::string_view text = header_text(bytes, where);
  SafetensorsHeader header = parse_safetensors_header(text, where);
  std::sort(header.entries.begin(), header.entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const std::span<const std::byte> data = bytes.subspan(kLengthBytes + text.size());
  check_layout(header.entries, data.size(), where);
  SafetensorsContents contents;
  contents.metadata = std::move(header.metadata);
  contents.tensors.reserve(header.entries.size());
  for (HeaderEntry& entry : header.entries)
    contents.tensors.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape),
                                data.subspan(entry.begin, entry.end - entry.begin)});
  return contents;
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  std::shared_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->mapping_ = MappedFile::open(path);
  file->contents_ = parse_safetensors(file->mapping_->bytes(), path.string());
  file->index_.reserve(file->tensors().size());
  for (std::size_t i = 0; i < file->tensors().size(); ++i) file->index_.emplace(file->tensors()[i].name, i);
  return file;
}

std::span<const std::byte> SafetensorsFile::header() const {
  std::size_t data = 0;
  for (const TensorView& tensor : tensors()) data += tensor.data.size();
  return mapping_->bytes().first(mapping_->bytes().size() - data);
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &contents_.tensors[found->second];
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorView> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(path), tensors_(in_file_order(tensors)) {
  check_tensors(path, tensors);
  const std::string header = make_header(path, tensors_, metadata);
  const std::uint64_t length = header.size();
  file_.emplace(path);
  file_->write(std::as_bytes(std::span(&length, 1)));
  file_->write(header);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  written_ += bytes.size();
  file_->write(bytes);
}

void SafetensorsWriter::commit() {
  std::size_t expected = 0;
  for (const TensorView& tensor : tensors_) expected += tensor.num_bytes();
  ADEPT_CHECK(written_ == expected, "{}: {} bytes of tensors that have {}", path_.string(), written_, expected);
  file_->commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata, const TensorReader& read) {
  SafetensorsWriter writer(path, tensors, metadata);
  for (const TensorView& tensor : writer.tensors()) {
    const std::span<const std::byte> data = read ? read(tensor) : tensor.data;
    ADEPT_CHECK(data.size() == tensor.num_bytes(), "{}: tensor {} {} has {} bytes", path.string(), tensor.name,
                describe(tensor), data.size());
    writer.write(data);
  }
  writer.commit();
}

}  // namespace adept::io
