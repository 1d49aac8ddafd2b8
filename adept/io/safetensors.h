// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// https://github.com/huggingface/safetensors#format
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
#include <unordered_map>
#include <vector>

#include "adept/core/dtype.h"
#include "adept/io/atomic_file.h"
#include "adept/io/mapped_file.h"

namespace adept::io {

/// A named tensor whose bytes (row-major, little-endian) belong to another object.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;  ///< empty for a scalar; a dimension may be 0
  std::span<const std::byte> data;  ///< num_bytes() bytes

  /// Product of the shape; 1 for a scalar.
  std::int64_t num_elements() const;
  /// num_elements() * dtype_size(dtype).
  std::size_t num_bytes() const;
  /// Whether `data` may be read as the element type in place. Other programs may start the data at any offset.
  bool is_aligned() const;
};

/// "F32 [2, 3]", for messages.
std::string describe(const TensorView& tensor);

/// The contents of a safetensors file; the tensors point into its bytes.
struct SafetensorsContents {
  std::vector<TensorView> tensors;  ///< in the order of their bytes in the file
  std::map<std::string, std::string> metadata;
};

/// Checks every rule of the format on the bytes of a whole file; reads only the header.
///
/// The header is a UTF-8 JSON object of at most 100 MB that starts with '{' (spaces may follow it) and has no duplicate
/// keys; each tensor has exactly dtype, shape and data_offsets; its bytes are shape times dtype; all tensors together
/// cover the rest of the file, without overlap or gap; `__metadata__` maps strings to strings. This reader adds two
/// limits: at most 64 dimensions, and a product of the non-zero dimensions below 2^63 bytes. Throws DataError that
/// names the file (`where`), the tensor, what was found and what was expected.
SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, const std::string& where);

/// A memory-mapped safetensors file. Immutable; its tensors point into the mapping and live as long as this object.
class SafetensorsFile {
 public:
  /// Maps the file and checks it with parse_safetensors(). Throws DataError.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return mapping_->path(); }
  const FileIdentity& identity() const { return mapping_->identity(); }
  /// Everything before the tensors.
  std::span<const std::byte> header() const;
  /// In the order of their bytes in the file.
  const std::vector<TensorView>& tensors() const { return contents_.tensors; }
  /// Null if there is no such tensor.
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return contents_.metadata; }

 private:
  SafetensorsFile() = default;

  std::shared_ptr<const MappedFile> mapping_;
  SafetensorsContents contents_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

/// Writes a file as write_safetensors() does, in pieces.
class SafetensorsWriter {
 public:
  /// Writes the header. The `data` of the tensors is not read.
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorView> tensors,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
  /// In the order of the file.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  /// The next bytes of the tensors, which follow one another.
  void write(std::span<const std::byte> bytes);
  /// Call after the last byte. Without it, the file does not appear.
  void commit();

 private:
  std::filesystem::path path_;
  std::vector<TensorView> tensors_;
  std::optional<AtomicFile> file_;
  std::size_t written_ = 0;
};

/// Returns the bytes of a tensor when it is about to be written; they must stay valid until the next call.
using TensorReader = std::function<std::span<const std::byte>(const TensorView&)>;

/// Writes a file atomically and durably. The tensors are written one after the other, from their `data` or, with
/// `read`, from what it returns (`data` may then be empty).
///
/// Tensors are laid out as the official library does, by element type (widest alignment first) and then by name, and
/// the header is padded with spaces to a multiple of 8 bytes, so the result equals the file that `safetensors` writes.
/// Throws DataError on a failed write, a header above 100 MB, or a name that is not UTF-8; InternalError on duplicate
/// names or on data that does not match its shape.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                       const TensorReader& read = {});

}  // namespace adept::io
