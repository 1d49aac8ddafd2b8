#include "adept/io/weight_files.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/core/nearest_name.h"
#include "adept/io/atomic_file.h"
#include "adept/io/text_quote.h"

namespace adept::io {
namespace fs = std::filesystem;
namespace {

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr std::size_t kMaxReported = 20;
constexpr std::size_t kLongestSuggestion = 200;

// Lists the first few faults of one kind and counts the rest.
void throw_faults(const fs::path& where, const std::vector<std::string>& faults) {
  if (faults.empty()) return;
  std::string message = fmt::format("{}: the weights are incomplete or do not match their index:", where.string());
  for (std::size_t i = 0; i < std::min(faults.size(), kMaxReported); ++i) message += "\n  " + faults[i];
  if (faults.size() > kMaxReported) message += fmt::format("\n  ... and {} more", faults.size() - kMaxReported);
  throw DataError(message + "\nDownload or copy the model again, or fix the index.");
}

DataError no_weights_error(const fs::path& model_dir) {
  std::error_code error;
  if (!fs::is_directory(model_dir, error))
    return DataError("{}: is not a folder; expected a model folder.", model_dir.string());
  std::set<std::string> gguf, others;
  for (fs::directory_iterator it(model_dir, error), end; !error && it != end; it.increment(error)) {
    const fs::path name = it->path().filename();
    if (name.extension() == ".gguf") gguf.insert(name.string());
    if (name.extension() == ".bin" || name.extension() == ".pth" || name.extension() == ".pt")
      others.insert(name.string());
  }
  const std::string found = fmt::format("{}: has neither {} nor {}", model_dir.string(), kSingleFile, kIndexFile);
  if (!gguf.empty())
    return DataError("{}, but {}. Convert it with `adept import-gguf --gguf {} --out DIR`.", found, *gguf.begin(),
                     (model_dir / *gguf.begin()).string());
  if (!others.empty())
    return DataError(
        "{}, but {}, a pickle file, which adept does not read. Save the model as safetensors: in Python, "
        "AutoModelForCausalLM.from_pretrained(\"{}\").save_pretrained(DIR).",
        found, *others.begin(), model_dir.string());
  return DataError("{}; expected a Hugging Face model. If a download was interrupted, repeat it.", found);
}

using WeightMap = std::map<std::string, std::string>;  // tensor -> file

struct Index {
  WeightMap weight_map;
  std::optional<std::uint64_t> total_size;
};

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Index read_index(const fs::path& path) {
  const nlohmann::json json = read_sorted_json(path);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object())
    throw DataError(
        "{}: has no object \"weight_map\"; expected {{\"metadata\": ..., \"weight_map\": {{tensor: file}}}}.",
        path.string());
  Index index;
  std::vector<std::string> faults;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string())
      faults.push_back(fmt::format("tensor {}: the file is {}; expected a string", quote(name), file.type_name()));
    else if (!is_plain_file_name(file.get_ref<const std::string&>()))
      faults.push_back(fmt::format("tensor {}: the file {} is not a plain file name in this folder", quote(name),
                                   quote(file.get_ref<const std::string&>())));
    else
      index.weight_map.emplace(name, file.get<std::string>());
  }
  throw_faults(path, faults);
  if (index.weight_map.empty())
    throw DataError("{}: does not list any tensor. Download or copy the model again.", path.string());
  const auto metadata = json.find("metadata");
  if (metadata != json.end() && metadata->is_object()) {
    const auto size = metadata->find("total_size");
    if (size != metadata->end() && size->is_number_unsigned()) index.total_size = size->get<std::uint64_t>();
  }
  return index;
}

// Compares an index with its shards.
class ShardCheck {
 public:
  explicit ShardCheck(const Index& index) : weight_map_(index.weight_map) {}

  // `expected` is the part of the index that belongs to this shard.
  void add(const SafetensorsFile& file, const std::string& name, const WeightMap& expected) {
    for (const TensorView& tensor : file.tensors()) {
      const auto entry = weight_map_.find(tensor.name);
      if (entry == weight_map_.end()) {
        const auto [first, is_new] = unlisted_.emplace(tensor.name, name);
        if (!is_new) fault("{}: tensor {} is also in {}", name, quote(tensor.name), first->second);
      } else if (entry->second != name) {
        fault("{}: tensor {} is here, but the index places it in {}", name, quote(tensor.name), entry->second);
      }
    }
    for (const auto& [tensor, shard] : expected)
      if (file.find(tensor) == nullptr)
        fault("{}: does not contain tensor {}, which the index places here", name, quote(tensor));
  }

  template <typename... Args>
  void fault(fmt::format_string<Args...> format, Args&&... args) {
    faults_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }

  const std::vector<std::string>& faults() const { return faults_; }
  const WeightMap& unlisted() const { return unlisted_; }

 private:
  const WeightMap& weight_map_;
  WeightMap unlisted_;
  std::vector<std::string> faults_;
};

void warn_of_information(const fs::path& index_path, const Index& index, const WeightMap& unlisted,
                         std::int64_t total_bytes) {
  if (!unlisted.empty())
    log_once(
        LogLevel::kWarning,
        fmt::format("{}: does not list {} of the tensors in its shards, such as {} in {}; they are used",
                    index_path.string(), unlisted.size(), quote(unlisted.begin()->first), unlisted.begin()->second));
  else if (index.total_size && *index.total_size != static_cast<std::uint64_t>(total_bytes))
    log_once(LogLevel::kWarning, fmt::format("{}: metadata.total_size is {}, but the tensors have {} bytes",
                                             index_path.string(), *index.total_size, total_bytes));
}

// Leftovers of another download or save; transformers ignores them too.
void warn_of_other_shards(const fs::path& model_dir, const std::map<std::string, WeightMap>& shards) {
  std::error_code error;
  for (fs::directory_iterator it(model_dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("model-") && name.ends_with(".safetensors") && !shards.contains(name))
      log_once(LogLevel::kWarning,
               fmt::format("{}: {} is not in {} and is not used", model_dir.string(), name, kIndexFile));
  }
}

void refuse_existing_weights(const fs::path& model_dir) {
  std::error_code error;
  for (fs::directory_iterator it(model_dir, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name == kIndexFile || (name.starts_with("model") && name.ends_with(".safetensors")))
      throw DataError("{}: already has the weight file {}; remove it, or choose another folder.", model_dir.string(),
                      name);
  }
  if (error) throw system_error(model_dir, "list the folder", error.value());
}

std::vector<std::vector<TensorView>> make_shards(std::span<const TensorView> tensors, std::int64_t max_shard_bytes) {
  std::vector<std::vector<TensorView>> shards(1);
  std::uint64_t size = 0;
  for (const TensorView& tensor : tensors) {
    if (!shards.back().empty() && size + tensor.num_bytes() > static_cast<std::uint64_t>(max_shard_bytes)) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().push_back(tensor);
    size += tensor.num_bytes();
  }
  return shards;
}

std::string hash_sorted(std::vector<const TensorView*>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Hasher hasher;
  const auto update_count = [&](std::size_t count) {
    const auto value = static_cast<std::uint64_t>(count);
    hasher.update(std::as_bytes(std::span(&value, 1)));
  };
  for (const TensorView* tensor : tensors) {
    update_count(tensor->name.size());
    hasher.update(tensor->name);
    const std::string_view dtype = safetensors_name(tensor->dtype);
    update_count(dtype.size());
    hasher.update(dtype);
    update_count(tensor->shape.size());
    hasher.update(std::as_bytes(std::span(tensor->shape)));
    hasher.update(tensor->data);
    release_pages(tensor->data);
  }
  return hasher.digest();
}

// A file written recently may be rewritten within the resolution of the file system's clock.
constexpr std::int64_t kTickOfClock = 20'000'000;  // ns; the coarsest is 10 ms

std::string remembered_hash(const std::vector<FileIdentity>& files, const std::function<std::string()>& compute) {
  static std::mutex mutex;
  static std::map<std::vector<FileIdentity>, std::string> hashes;
  const std::lock_guard lock(mutex);
  if (const auto found = hashes.find(files); found != hashes.end()) return found->second;
  const auto now = std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count();
  const bool is_settled = std::all_of(files.begin(), files.end(), [&](const FileIdentity& file) {
    return std::max(file.modified, file.changed) < now - kTickOfClock;
  });
  std::string hash = compute();
  if (is_settled) hashes.emplace(files, hash);
  return hash;
}

}  // namespace

WeightFiles WeightFiles::open(const fs::path& model_dir) {
  WeightFiles weights;
  weights.directory_ = model_dir;
  const fs::path single = model_dir / kSingleFile, index_path = model_dir / kIndexFile;
  const bool has_single = is_present(single), has_index = is_present(index_path);
  if (has_single && has_index)
    log_once(LogLevel::kWarning,
             fmt::format("{}: has both {} and {}; the former is used", model_dir.string(), kSingleFile, kIndexFile));
  if (has_single) {
    weights.add_file(SafetensorsFile::open(single));
    return weights;
  }
  if (!has_index) throw no_weights_error(model_dir);

  const Index index = read_index(index_path);
  std::map<std::string, WeightMap> by_shard;
  for (const auto& [tensor, shard] : index.weight_map) by_shard[shard].emplace(tensor, shard);
  ShardCheck check(index);
  for (const auto& [shard, tensors] : by_shard) {
    if (!is_present(model_dir / shard)) {
      check.fault("{}: is missing ({} tensors of the index)", shard, tensors.size());
      continue;
    }
    try {
      auto file = SafetensorsFile::open(model_dir / shard);
      check.add(*file, shard, tensors);
      weights.add_file(std::move(file));
    } catch (const DataError& error) {
      check.fault("{}", error.what());
    }
  }
  throw_faults(index_path, check.faults());
  warn_of_information(index_path, index, check.unlisted(), weights.total_bytes());
  warn_of_other_shards(model_dir, by_shard);
  return weights;
}

void WeightFiles::add_file(std::shared_ptr<const SafetensorsFile> file) {
  for (const TensorView& tensor : file->tensors()) entries_.emplace(tensor.name, Entry{tensor, file});
  files_.push_back(std::move(file));
}

void WeightFiles::rename(std::string_view from, const std::string& to) {
  const auto found = entries_.find(from);
  ADEPT_CHECK(found != entries_.end() && !entries_.contains(to), "{}: {} cannot become {}", directory_.string(), from,
              to);
  auto node = entries_.extract(found);
  node.key() = node.mapped().tensor.name = to;
  entries_.insert(std::move(node));
}

std::vector<std::string> WeightFiles::names() const {
  std::vector<std::string> names;
  names.reserve(entries_.size());
  for (const auto& [name, entry] : entries_) names.push_back(name);
  return names;
}

const TensorView* WeightFiles::find(std::string_view name) const {
  const auto found = entries_.find(name);
  return found == entries_.end() ? nullptr : &found->second.tensor;
}

const TensorView& WeightFiles::at(std::string_view name) const {
  if (const TensorView* tensor = find(name)) return *tensor;
  std::vector<std::string> candidates = names();
  std::erase_if(candidates, [](const std::string& candidate) { return candidate.size() > kLongestSuggestion; });
  const std::string nearest = nearest_name(name, candidates);
  throw DataError("{}: has no tensor {} among its {}{}.", directory_.string(), quote(name), entries_.size(),
                  nearest.empty() ? "" : fmt::format("; the nearest name is {}", quote(nearest)));
}

std::shared_ptr<const void> WeightFiles::owner(std::string_view name) const {
  at(name);
  return entries_.find(name)->second.file;
}

std::int64_t WeightFiles::total_bytes() const {
  std::int64_t total = 0;
  for (const auto& file : files_)
    for (const TensorView& tensor : file->tensors()) total += static_cast<std::int64_t>(tensor.data.size());
  return total;
}

std::string WeightFiles::hash() const {
  std::vector<FileIdentity> identities;
  std::vector<const TensorView*> tensors;
  for (const auto& file : files_) {
    identities.push_back(file->identity());
    for (const TensorView& tensor : file->tensors()) tensors.push_back(&tensor);
  }
  return remembered_hash(identities, [&] { return hash_sorted(tensors); });
}

std::map<fs::path, std::span<const std::byte>> WeightFiles::headers() const {
  std::map<fs::path, std::span<const std::byte>> headers;
  for (const auto& file : files_) headers.emplace(file->path(), file->header());
  return headers;
}

void write_weight_files(const fs::path& model_dir, std::span<const TensorView> tensors, std::int64_t max_shard_bytes,
                        const TensorReader& read) {
  ADEPT_CHECK(max_shard_bytes > 0, "max_shard_bytes is {}", max_shard_bytes);
  refuse_existing_weights(model_dir);
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};  // what transformers asks for
  const std::vector<std::vector<TensorView>> shards = make_shards(tensors, max_shard_bytes);
  if (shards.size() == 1) return write_safetensors(model_dir / kSingleFile, tensors, metadata, read);
  nlohmann::json index;
  std::uint64_t total_size = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(model_dir / name, shards[i], metadata, read);
    for (const TensorView& tensor : shards[i]) {
      total_size += tensor.num_bytes();
      const bool is_new = index["weight_map"].emplace(tensor.name, name).second;
      ADEPT_CHECK(is_new, "{}: two tensors are named {}", model_dir.string(), tensor.name);
    }
  }
  index["metadata"]["total_size"] = total_size;
  write_file_atomically(model_dir / kIndexFile, index.dump(2) + "\n");
}

}  // namespace adept::io
