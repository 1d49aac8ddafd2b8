// Caches activations of frozen layers in a file, for tokens that come again.
//
// Legend: B rows, T tokens, D hidden_size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "adept/core/file.h"
#include "adept/model/context.h"
#include "adept/nn/token_ids.h"
#include "adept/nn/transfer.h"

namespace adept::model {

/// The size limit of a cache at `path`: `most` bytes, or half of the free disk space (counting an earlier session's
/// file as free), if that is less. `num_files` caches share the space.
std::int64_t room_for_activations(const std::filesystem::path& path, std::int64_t most, int num_files = 1);

/// Everything besides the tokens that the activations depend on.
struct ActivationSource {
  std::string fingerprint;      ///< of the weights, the options and the machine
  std::int64_t num_layers = 0;  ///< the layers below
  std::int64_t hidden_size = 0;
  at::ScalarType dtype = at::kFloat;
};

struct ActivationCacheStats {
  std::int64_t positions_read = 0;      ///< tokens whose activations came from the file
  std::int64_t positions_computed = 0;  ///< tokens whose activations did not
  std::int64_t bytes = 0;               ///< of the file
};

/// A file of activations (T, D) of single rows, each with a checksum, keyed by the row's tokens, its context (the
/// starts of its documents, its length), and the shape of its batch. A batch is appended completely, or not at all if
/// the file has no room. All entries are dropped if the file belongs to another source, if an entry is damaged, or if
/// the disk is full (then caching stops). The file is read with pread, not mapped, so read data does not stay in the
/// process's memory.
///
/// A row of a matrix product may depend on its place in the batch, by how the library splits the work. Before it first
/// caches rows of a batch shape, the cache tests whether a row's result depends on its position in the batch. If it
/// does, rows of that shape are not cached, because training would not be reproducible bit for bit.
///
/// On a GPU batches are read and appended through pinned memory, and the host does not wait for them. A batch that was
/// computed is appended by a later call, when its copy has arrived; at most 512 MiB are on their way. What has not
/// arrived at the end is not kept. The test above waits for the GPU, once for each shape.
class ActivationCache {
 public:
  /// ids (B, T) and their context -> (B, T, D).
  using Compute = std::function<at::Tensor(const nn::TokenIds& ids, const Context& context)>;

  /// Opens or makes the file, which never grows beyond `max_bytes`. Throws DataError where it cannot.
  ActivationCache(std::filesystem::path path, std::int64_t max_bytes, ActivationSource source);

  std::int64_t num_layers() const { return source_.num_layers; }

  /// Returns compute(ids, context), read from the file if it has all rows; ids (B, T) on any device. `keeps_new`:
  /// adds computed rows to the file, because these tokens come again.
  at::Tensor get(const nn::TokenIds& ids, const Context& context, bool keeps_new, const Compute& compute);

  ActivationCacheStats stats() const;

 private:
  struct Entry {
    std::int64_t offset = 0;  // of the data
    std::int64_t bytes = 0;
    std::string checksum;
  };

  /// A batch that is being copied to the host.
  struct Arriving {
    std::vector<std::string> keys;
    nn::HostCopy activations;
    std::int64_t bytes = 0;  // in the file
  };

  void open();
  void read_index();
  bool clear();
  std::int64_t row_bytes(const at::Tensor& ids) const;
  at::Tensor read(const std::vector<std::string>& keys, const nn::TokenIds& ids);
  std::int64_t new_bytes(const std::vector<std::string>& keys, std::int64_t row_bytes) const;
  std::int64_t arriving_bytes() const;
  void append_arrived();
  void keep(const std::vector<std::string>& keys, const at::Tensor& activations);
  bool append(const std::string& key, std::span<const std::byte> data);
  bool is_independent_of_place(const nn::TokenIds& ids, const Context& context, const at::Tensor& activations,
                               const Compute& compute);

  std::filesystem::path path_;
  std::int64_t max_bytes_;
  ActivationSource source_;
  mutable std::mutex mutex_;
  UniqueFd fd_;
  std::int64_t end_ = 0;  // where the next entry goes
  std::unordered_map<std::string, Entry> entries_;
  std::deque<Arriving> arriving_;
  std::map<std::pair<std::int64_t, std::int64_t>, bool> is_independent_;  // by (B, T), of those that were tried
  ActivationCacheStats stats_;
};

}  // namespace adept::model
