#include "adept/model/activation_cache.h"

#include <ATen/TensorOperators.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/io/posix.h"
#include "adept/model/torch_tensors.h"
#include "adept/nn/transfer.h"

namespace adept::model {
namespace {

// The file: a FileHeader, then entries, each an EntryHeader and its data; numbers as the processor has them, as the
// file never leaves its machine.
using Digest = std::array<char, 40>;                             // the text of a hash, padded with zeros
constexpr std::int64_t kMostArriving = std::int64_t{512} << 20;  // bytes
constexpr std::string_view kMagic = "adept activations 1";

struct FileHeader {
  Digest magic{}, made_from{};
};

struct EntryHeader {
  Digest key{}, checksum{};
  std::int64_t bytes = 0;
};

Digest to_digest(std::string_view text) {
  Digest digest{};
  ADEPT_CHECK(text.size() <= digest.size(), "a digest of {} characters", text.size());
  std::copy(text.begin(), text.end(), digest.begin());
  return digest;
}

FileHeader header_of(const ActivationSource& source) {
  const std::string made_from = hash_of(fmt::format("{} {} {} {}", source.fingerprint, source.num_layers,
                                                    source.hidden_size, at::toString(source.dtype)));
  return {.magic = to_digest(kMagic), .made_from = to_digest(made_from)};
}

std::string to_text(const Digest& digest) { return {digest.begin(), std::find(digest.begin(), digest.end(), '\0')}; }

template <typename T>
std::span<std::byte> bytes_of(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

/// False at the end of the file and where it cannot be read.
bool read_at(int fd, std::int64_t offset, std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t count = ::pread(fd, out.data(), out.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    out = out.subspan(static_cast<std::size_t>(count));
    offset += count;
  }
  return true;
}

/// False, with errno, where it cannot be written.
bool write_at(int fd, std::int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(count));
    offset += count;
  }
  return true;
}

/// ids (B, T).
std::vector<std::string> row_keys(const at::Tensor& ids, const Context& context) {
  std::vector<std::string> keys;
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    Hasher hasher;
    hasher.update(fmt::format("{} x {}", ids.size(0), ids.size(1)));
    for (const at::Tensor& tensor : {ids, context.document_starts, context.lengths})
      if (tensor.defined()) hasher.update(as_view("", tensor.select(0, row).contiguous()).data);
    keys.push_back(hasher.digest());
  }
  return keys;
}

at::Tensor next_rows(const at::Tensor& rows) { return rows.defined() ? rows.roll(1, 0) : rows; }

}  // namespace

std::int64_t room_for_activations(const std::filesystem::path& path, std::int64_t most, int num_files) {
  std::error_code error, absent;
  const auto space = std::filesystem::space(io::parent_of(path), error);
  if (error) return most;
  const auto old = std::filesystem::file_size(path, absent);
  return std::min(most, static_cast<std::int64_t>(
                            (space.available / static_cast<std::uintmax_t>(num_files) + (absent ? 0 : old)) / 2));
}

ActivationCache::ActivationCache(std::filesystem::path path, std::int64_t max_bytes, ActivationSource source)
    : path_(std::move(path)), max_bytes_(max_bytes), source_(std::move(source)) {
  open();
}

void ActivationCache::open() {
  fd_ = UniqueFd(::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd_.is_open()) throw system_error(path_, "open", errno);
  const FileHeader header = header_of(source_);
  FileHeader found;
  if (read_at(fd_.get(), 0, bytes_of(found)) && found.magic == header.magic && found.made_from == header.made_from)
    read_index();
  else if (!clear())
    throw system_error(path_, "write", errno);
}

bool ActivationCache::clear() {
  entries_.clear();
  end_ = sizeof(FileHeader);
  FileHeader header = header_of(source_);
  return ::ftruncate(fd_.get(), 0) == 0 && write_at(fd_.get(), 0, bytes_of(header));
}

void ActivationCache::read_index() {
  const std::int64_t size = ::lseek(fd_.get(), 0, SEEK_END);
  end_ = sizeof(FileHeader);
  EntryHeader header;
  while (read_at(fd_.get(), end_, bytes_of(header))) {
    const std::int64_t data = end_ + static_cast<std::int64_t>(sizeof(EntryHeader));
    if (header.bytes <= 0 || header.bytes > size - data) break;  // cut short, or damaged
    entries_[to_text(header.key)] = {.offset = data, .bytes = header.bytes, .checksum = to_text(header.checksum)};
    end_ = data + header.bytes;
  }
  if (end_ < size && ::ftruncate(fd_.get(), end_) != 0) throw system_error(path_, "write", errno);
}

at::Tensor ActivationCache::get(const nn::TokenIds& ids, const Context& context, bool keeps_new,
                                const Compute& compute) {
  const at::Tensor& rows = ids.host;
  if (rows.numel() == 0) return compute(ids, context);
  const std::lock_guard lock(mutex_);
  const std::vector<std::string> keys = row_keys(rows, context);
  append_arrived();
  if (const at::Tensor found = read(keys, ids); found.defined()) {
    stats_.positions_read += rows.numel();
    return found;
  }
  at::Tensor activations = compute(ids, context);
  stats_.positions_computed += rows.numel();
  const std::int64_t bytes = new_bytes(keys, row_bytes(rows));
  const bool has_room = bytes > 0 && end_ + arriving_bytes() + bytes <= max_bytes_;
  if (keeps_new && has_room && is_independent_of_place(ids, context, activations, compute)) {
    arriving_.push_back({.keys = keys, .activations = nn::HostCopy(activations), .bytes = bytes});
    append_arrived();
  }
  return activations;
}

// Whole batches: one of which a row is missing is never read.
std::int64_t ActivationCache::new_bytes(const std::vector<std::string>& keys, std::int64_t row_bytes) const {
  const auto is_new = [&](const std::string& key) {
    const auto has_it = [&](const Arriving& batch) { return std::ranges::find(batch.keys, key) != batch.keys.end(); };
    return !entries_.contains(key) && std::ranges::none_of(arriving_, has_it);
  };
  return std::ranges::count_if(keys, is_new) * (static_cast<std::int64_t>(sizeof(EntryHeader)) + row_bytes);
}

std::int64_t ActivationCache::arriving_bytes() const {
  std::int64_t bytes = 0;
  for (const Arriving& batch : arriving_) bytes += batch.bytes;
  return bytes;
}

void ActivationCache::append_arrived() {
  while (!arriving_.empty() && (arriving_.front().activations.is_done() || arriving_bytes() > kMostArriving)) {
    const Arriving batch = std::move(arriving_.front());
    arriving_.pop_front();
    if (max_bytes_ > 0) keep(batch.keys, batch.activations.values());
  }
}

std::int64_t ActivationCache::row_bytes(const at::Tensor& ids) const {
  return ids.size(1) * source_.hidden_size * static_cast<std::int64_t>(at::elementSize(source_.dtype));
}

at::Tensor ActivationCache::read(const std::vector<std::string>& keys, const nn::TokenIds& ids) {
  const auto is_known = [&](const std::string& key) { return entries_.contains(key); };
  if (!std::all_of(keys.begin(), keys.end(), is_known)) return {};
  const at::Tensor& of_ids = ids.host;
  const at::Device device = ids.values.device();
  at::Tensor rows = nn::empty_on_host({of_ids.size(0), of_ids.size(1), source_.hidden_size}, source_.dtype, device);
  const auto size = static_cast<std::size_t>(row_bytes(of_ids));
  auto* out = static_cast<std::byte*>(rows.data_ptr());
  for (std::size_t row = 0; row < keys.size(); ++row) {
    const Entry& entry = entries_.at(keys[row]);
    const std::span<std::byte> data(out + row * size, size);
    if (entry.bytes == row_bytes(of_ids) && read_at(fd_.get(), entry.offset, data) && hash_of(data) == entry.checksum)
      continue;
    log_warning("{}: an entry is damaged; dropping all entries, which are recomputed when needed", path_.string());
    if (!clear()) max_bytes_ = 0;
    return {};
  }
  return nn::to_device(rows, device);
}

bool ActivationCache::is_independent_of_place(const nn::TokenIds& ids, const Context& context,
                                              const at::Tensor& activations, const Compute& compute) {
  const at::Tensor& rows = ids.host;
  if (rows.size(0) == 1) return true;
  const bool was_told =
      std::any_of(is_independent_.begin(), is_independent_.end(), [](const auto& s) { return !s.second; });
  const auto [shape, is_new] = is_independent_.try_emplace({rows.size(0), rows.size(1)});
  if (is_new) {
    Context next = context;
    next.document_starts = next_rows(context.document_starts);
    next.document_bounds = {};
    next.lengths = next_rows(context.lengths);
    shape->second = compute({next_rows(rows), ids.values.device()}, next).equal(next_rows(activations));
    if (!shape->second && !was_told)
      log_warning(
          "activation cache: activations of batches of {} x {} tokens are not cached, because on this machine they "
          "depend on the position of a sequence in its batch, so training would not be reproducible bit for bit",
          rows.size(0), rows.size(1));
  }
  return shape->second;
}

void ActivationCache::keep(const std::vector<std::string>& keys, const at::Tensor& activations) {
  for (std::size_t row = 0; row < keys.size(); ++row) {
    if (entries_.contains(keys[row])) continue;
    const at::Tensor data = activations.select(0, static_cast<std::int64_t>(row));
    if (append(keys[row], as_view("", data).data)) continue;
    log_warning("{}: cannot be written ({}); continuing without the activation cache", path_.string(),
                std::strerror(errno));
    max_bytes_ = 0;  // what needs the disk more gets it back
    if (!clear()) log_warning("{}: cannot be truncated", path_.string());
    return;
  }
}

bool ActivationCache::append(const std::string& key, std::span<const std::byte> data) {
  EntryHeader header{
      .key = to_digest(key), .checksum = to_digest(hash_of(data)), .bytes = static_cast<std::int64_t>(data.size())};
  const std::int64_t offset = end_ + static_cast<std::int64_t>(sizeof(EntryHeader));
  if (!write_at(fd_.get(), end_, bytes_of(header)) || !write_at(fd_.get(), offset, data)) return false;
  entries_[key] = {.offset = offset, .bytes = header.bytes, .checksum = to_text(header.checksum)};
  end_ = offset + header.bytes;
  return true;
}

ActivationCacheStats ActivationCache::stats() const {
  const std::lock_guard lock(mutex_);
  ActivationCacheStats stats = stats_;
  stats.bytes = end_;
  return stats;
}

}  // namespace adept::model
