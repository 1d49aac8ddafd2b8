// The GGUF format of llama.cpp: metadata (key, typed value), a table of tensors, then their bytes, all little-endian.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/io/mapped_file.h"

namespace adept::io {

/// How a tensor's elements are stored: the supported ones of enum ggml_type, with its numbers (ggml.h).
enum class GgmlType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

/// Elements are stored in blocks along the innermost dimension.
struct GgmlBlock {
  std::int64_t elements;
  std::int64_t bytes;
};
GgmlBlock ggml_block(GgmlType type);
/// "Q4_K".
std::string_view ggml_name(GgmlType type);

/// One tensor of the file; its bytes belong to the file.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<std::int64_t> shape;  ///< outermost dimension first, as in PyTorch (reversed in the file)
  std::span<const std::byte> data;

  std::int64_t num_elements() const;
};

/// "Q4_1 [576, 1536]", for messages.
std::string describe(const GgufTensor& tensor);

/// The types of metadata values, with the numbers of the format.
enum class GgufValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

/// One metadata value; its bytes belong to the file.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint8;
  GgufValueType element_type = GgufValueType::kUint8;  ///< of an array
  std::uint64_t count = 0;                             ///< elements of an array
  std::span<const std::byte> bytes;                    ///< of a scalar, a string, or an array of numbers
  std::vector<std::string_view> strings;               ///< of an array of strings
};

/// A GGUF file of version 2 or 3, memory-mapped. Immutable.
class GgufFile {
 public:
  /// Maps the file and checks everything but the tensors' contents: magic, version, byte order; every count and length
  /// against the size of the file before anything is allocated; strings are UTF-8; no key and no tensor twice; the
  /// alignment is a power of two; tensors have 1 to 4 dimensions and whole blocks per row, are of a supported type, and
  /// lie aligned, inside the file and apart from each other; every byte of the file belongs to one, or is zero padding.
  ///
  /// Throws DataError that names the file, the place, what was found and what was expected; problems of tensors are
  /// collected into one message.
  static std::shared_ptr<const GgufFile> open(const std::filesystem::path& path);
  /// The same from memory, which must outlive the result; `where` replaces the path in messages.
  static std::shared_ptr<const GgufFile> parse(std::span<const std::byte> bytes, std::string where);

  const std::string& where() const { return where_; }
  std::uint32_t version() const { return version_; }
  /// In the order of the file's table.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// Null if there is no such tensor.
  const GgufTensor* find(std::string_view name) const;

  /// Metadata keys, in the order of the file.
  const std::vector<std::string>& keys() const { return keys_; }
  /// Null if there is no such key.
  const GgufValue* value(std::string_view key) const;

  // Metadata by type: nothing (or null) if the key is absent; DataError if its value has another type.

  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  /// Any integer type; DataError beyond the range of int64.
  std::optional<std::int64_t> integer(std::string_view key) const;
  /// Any float or integer type. A 32-bit float is given as the shortest decimal that reads back as the same 32 bits
  /// (1e-05, not 9.999999747e-06), the value that was written.
  std::optional<double> number(std::string_view key) const;
  /// An array of integers, or one integer.
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  /// An array of 32- or 64-bit floats, as they are.
  std::optional<std::vector<double>> floats(std::string_view key) const;
  /// An array of strings.
  const std::vector<std::string_view>* strings(std::string_view key) const;

 private:
  friend class GgufParser;
  GgufFile() = default;

  std::shared_ptr<const MappedFile> mapping_;
  std::string where_;
  std::uint32_t version_ = 0;
  std::vector<std::string> keys_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
};

/// Writes the tensor's values into `out`, num_elements() of them, in row-major order. Bit for bit what ggml's reference
/// (ggml-quants.c, dequantize_row_*) and the `gguf` Python package compute: fp32, without fused multiply-add.
void dequantize(const GgufTensor& tensor, std::span<float> out);

}  // namespace adept::io
