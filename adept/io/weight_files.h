// The weights of a Hugging Face model directory: model.safetensors, or shards with model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "adept/io/mapped_file.h"
#include "adept/io/safetensors.h"

namespace adept::io {

/// All tensors of a model, memory-mapped. Copies are cheap and share the mappings.
class WeightFiles {
 public:
  /// Opens `model_dir`/model.safetensors, else the shards of `model_dir`/model.safetensors.index.json (if both exist,
  /// the single file is used with a warning, as in transformers).
  ///
  /// Every shard must exist, every tensor of the index must be in its shard and in no other, and file names must not
  /// leave the directory. Harmless differences are warned about once: tensors of a shard that the index does not list
  /// (they are used, as from a single file), and a metadata.total_size that differs from the size of the tensors.
  /// Throws DataError with all faults at once; for other weight formats, the message says how to convert them.
  static WeightFiles open(const std::filesystem::path& model_dir);

  const std::filesystem::path& directory() const { return directory_; }
  /// Sorted.
  std::vector<std::string> names() const;
  /// Null if there is no such tensor. Valid as long as this object lives, its bytes as long as owner(name) does too.
  const TensorView* find(std::string_view name) const;
  /// Throws DataError with the directory and the nearest name, if there is one.
  const TensorView& at(std::string_view name) const;
  /// Gives a tensor another, unique name. hash() does not change.
  void rename(std::string_view from, const std::string& to);
  /// Keeps the mapping of this tensor's bytes alive. Throws DataError if there is no such tensor.
  std::shared_ptr<const void> owner(std::string_view name) const;
  /// Releases a tensor's bytes from memory after they were copied; they are read again on access.
  void release_pages(std::string_view name) const { io::release_pages(at(name).data); }
  /// Bytes of all tensors.
  std::int64_t total_bytes() const;
  /// Content hash (name, element type, shape, bytes of every tensor, sorted by name): "xxh3:...". Independent of how
  /// the tensors are split over files. Reads every byte on the first call in this process; the hash of unchanged files
  /// is remembered.
  std::string hash() const;
  /// Metadata of the files other than the tensors, by path; not part of hash().
  std::map<std::filesystem::path, std::span<const std::byte>> headers() const;

 private:
  struct Entry {
    TensorView tensor;
    std::shared_ptr<const SafetensorsFile> file;
  };
  void add_file(std::shared_ptr<const SafetensorsFile> file);

  std::filesystem::path directory_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::map<std::string, Entry, std::less<>> entries_;  // by name
};

/// As transformers splits large models.
inline constexpr std::int64_t kMaxShardBytes = 5'000'000'000;

/// Writes model.safetensors if everything fits into `max_shard_bytes`, else model-00001-of-0000N.safetensors ... and
/// model.safetensors.index.json; shards are filled in the given order, and a larger tensor gets its own shard. Each
/// file is written atomically, the index last; for all or nothing, write into an AtomicDirectory. With `read` the bytes
/// come from there, tensor by tensor, so models larger than memory can be written. Throws DataError on a failed write,
/// or if the directory already has weight files.
void write_weight_files(const std::filesystem::path& model_dir, std::span<const TensorView> tensors,
                        std::int64_t max_shard_bytes = kMaxShardBytes, const TensorReader& read = {});

}  // namespace adept::io
