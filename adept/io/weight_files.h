// The weights of a Hugging Face model directory: model.safetensors, or shards with model.safetensors.index.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "adept/io/mapped_file.h"
#include "adept/io/safetensors.h"

namespace adept::io {

/// All tensors of a model, memory-mapped. Copies are cheap and share the mappings.
class WeightFiles {
 public:
  /// Opens `model_dir`/model.safetensors, else the shards of `model_dir`/model.safetensors.index.json (with both
  /// present the single file is used and a warning is logged, as transformers does).
  ///
  /// Index and shards must agree: every shard is there, every tensor of the index is in its shard, every tensor of a
  /// shard is in the index, metadata.total_size (where given) is the size of the tensors, and file names stay inside
  /// the directory. Throws DataError with all faults at once; for other weight formats it says how to convert them.
  static WeightFiles open(const std::filesystem::path& model_dir);

  const std::filesystem::path& directory() const { return directory_; }
  /// Sorted.
  std::vector<std::string> names() const;
  /// Null if there is no such tensor. Valid as long as this object or owner(name) lives.
  const TensorView* find(std::string_view name) const;
  /// Throws DataError that names the directory and, where there is one, the nearest name.
  const TensorView& at(std::string_view name) const;
  /// Keeps the mapping of this tensor's bytes alive. Throws DataError if there is no such tensor.
  std::shared_ptr<const void> owner(std::string_view name) const;
  /// Takes a tensor's bytes, once they were copied, out of the process's memory; they are read again when touched.
  void release_pages(std::string_view name) const { io::release_pages(at(name).data); }
  /// Bytes of all tensors.
  std::int64_t total_bytes() const;
  /// Content hash (name, element type, shape, bytes of every tensor, sorted by name): "xxh3:...". The same for the
  /// same tensors however they are spread over files. Reads every byte.
  std::string hash() const;

 private:
  struct Location {
    std::size_t file = 0;
    std::size_t tensor = 0;
  };
  void add_file(std::shared_ptr<const SafetensorsFile> file);

  std::filesystem::path directory_;
  std::vector<std::shared_ptr<const SafetensorsFile>> files_;
  std::unordered_map<std::string_view, Location> locations_;
};

/// As transformers splits large models.
inline constexpr std::int64_t kMaxShardBytes = 5'000'000'000;

/// Writes model.safetensors if everything fits into `max_shard_bytes`, else model-00001-of-0000N.safetensors ... and
/// model.safetensors.index.json; shards are filled in the given order, and a larger tensor gets a shard of its own.
/// Each file is written atomically, the index last; for all or nothing, write into an AtomicDirectory. With `read` the
/// bytes come from there, tensor by tensor, so that a model larger than the memory can be written.
/// Throws DataError on a failed write, or if the directory has weight files already.
void write_weight_files(const std::filesystem::path& model_dir, std::span<const TensorView> tensors,
                        std::int64_t max_shard_bytes = kMaxShardBytes, const TensorReader& read = {});

/// WeightFiles::hash() of tensors in memory.
std::string hash_of_tensors(std::span<const TensorView> tensors);

}  // namespace adept::io
