#include "adept/run/token_cache.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <string_view>
#include <system_error>
#include <vector>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/hash.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/data/interchange/token_files.h"
#include "adept/data/store/token_store.h"
#include "adept/data/tokenize.h"
#include "adept/dist/process_group.h"
#include "adept/io/cache_directory.h"
#include "adept/run/result_cache.h"

namespace adept::run {
namespace {

namespace fs = std::filesystem;

constexpr auto kLongestUnused = std::chrono::hours(24 * 30);

data::TokenizeOptions tokenize_options() {
  return {.num_threads = threads_while_others_wait(), .store = {.on_other = data::OnOtherStore::kReplace}};
}

fs::path shared_folder() { return fs::absolute(io::cache_directory()) / "tokens"; }

fs::path store_in_cache(const data::DatasetInfo& inputs) {
  const std::string hash = hash_of(data::inputs_of(inputs, data::StoreOptions().shard_bytes).dump());
  return shared_folder() / hash.substr(std::string_view("xxh3:").size());
}

// A store's time of modification is that of its last use.
void mark_used(const fs::path& store) {
  std::error_code ignored;
  fs::last_write_time(store, fs::file_time_type::clock::now(), ignored);
}

std::int64_t bytes_in(const fs::path& folder) {
  std::int64_t bytes = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // by another process
    const std::uintmax_t size = it->file_size(gone);
    if (!gone) bytes += static_cast<std::int64_t>(size);
  }
  return bytes;
}

// `link` shows where the tokens of a run are.
void show_store(const fs::path& link, const fs::path& store) {
  std::error_code error;
  if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == store) return;
  if (fs::is_symlink(link, error) || data::is_store(link) || data::has_progress(link)) fs::remove_all(link, error);
  fs::create_directory_symlink(store, link, error);
  if (error) log_warning("{}: cannot be linked to {}: {}", link.string(), store.string(), error.message());
}

// Whether the user's cache can be written: in a container it may not.
bool has_cache() {
  if (!shares_results()) return false;
  const fs::path cache = shared_folder();
  std::error_code error;
  fs::create_directories(cache, error);
  if (!error && ::access(cache.c_str(), W_OK | X_OK) == 0) return true;
  log_once(LogLevel::kInfo, fmt::format("{}: cannot be written, so it keeps no tokens", cache.string()));
  return false;
}

}  // namespace

void limit_token_cache(const fs::path& cache, std::int64_t most_bytes) {
  struct Entry {
    fs::file_time_type used;
    fs::path path;
    std::int64_t bytes = 0;
  };
  std::vector<Entry> entries;
  std::int64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(cache, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;  // by another process
    const auto used = it->last_write_time(gone);
    if (gone) continue;
    entries.push_back({.used = used, .path = it->path(), .bytes = bytes_in(it->path())});
    total += entries.back().bytes;
  }
  std::ranges::sort(entries, {}, &Entry::used);
  const auto now = fs::file_time_type::clock::now();
  for (const Entry& entry : entries) {
    const bool is_old = now - entry.used > kLongestUnused;
    if (!is_old && total <= most_bytes) return;
    if (!data::remove_if_unused(entry.path)) continue;
    total -= entry.bytes;
    log_info("{}: removed, because {}", entry.path.string(),
             is_old ? "no run used these tokens for 30 days"
                    : fmt::format("all take more than {} (ADEPT_TOKEN_CACHE_GB) and it was unused for longest",
                                  format_bytes(most_bytes)));
  }
}

std::int64_t most_token_cache_bytes(const fs::path& cache) {
  constexpr double kMostGigabytes = 1e9;
  const char* value = std::getenv("ADEPT_TOKEN_CACHE_GB");
  const std::string_view text = value == nullptr ? "" : value;
  if (text.empty()) {
    std::error_code error;
    const fs::space_info space = fs::space(cache, error);
    return error ? std::numeric_limits<std::int64_t>::max() : static_cast<std::int64_t>(space.capacity / 5);
  }
  double gigabytes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), gigabytes);
  if (error != std::errc() || end != text.data() + text.size() || !(gigabytes > 0 && gigabytes <= kMostGigabytes))
    throw ConfigError("ADEPT_TOKEN_CACHE_GB: found \"{}\"; expected a number of gigabytes above 0.", text);
  return static_cast<std::int64_t>(1e9 * gigabytes);
}

data::TokenDataset tokenize_source(const TextModel& model, const data::TextSource& source) {
  Progress progress("tokenize", 0, {.counts = "bytes", .source = source.name});
  return data::tokenize(source, model.encoder(source), {.num_threads = at::get_num_threads()}, progress);
}

data::TokenDataset tokenize_source_cached(const TextModel& model, const data::TextSource& source,
                                          const fs::path& directory, Verify verify) {
  const data::TextEncoder encoder = model.encoder(source);
  if (const auto tokens = data::find_token_files(source); tokens && tokens->format == data::TokenFormat::kStore) {
    if (verify == Verify::kNow) {
      Progress progress("verify", 0, {.counts = "tokens", .source = source.name});
      data::verify_store(tokens->parts.front(), progress);
    }
    return data::open_store_as(tokens->parts.front(), source, encoder);
  }
  const data::DatasetInfo inputs = data::dataset_inputs(source, encoder);
  const fs::path own = directory / (source.name + ".tokens");
  const bool is_shared = has_cache();
  const fs::path store = is_shared ? store_in_cache(inputs) : own;
  if (!directory.empty())
    fs::create_directories(directory);
  else if (!is_shared)
    throw DataError("{}: cannot be written any more; it is to keep the tokens of {}.", shared_folder().string(),
                    source.name);
  if (std::error_code error; !is_shared && fs::is_symlink(own, error)) fs::remove(own, error);
  const bool is_built = is_shared && !data::is_store(store);
  const std::int64_t most_bytes = is_shared ? most_token_cache_bytes(store.parent_path()) : 0;
  if (is_built) limit_token_cache(store.parent_path(), most_bytes);
  const auto build = [&] {
    Progress progress("tokenize", 0, {.counts = "bytes", .source = source.name});
    return data::tokenize_to_store(store, inputs, source, encoder, tokenize_options(), progress);
  };
  data::TokenDataset dataset = build();
  if (verify == Verify::kNow) {
    Progress progress("verify", 0, {.counts = "tokens", .source = source.name});
    if (!data::verify_or_discard(store, source, data::OnOtherStore::kReplace, progress)) dataset = build();
  }
  if (is_shared) {
    mark_used(store);
    if (dist::is_first() && !directory.empty()) show_store(own, store);
    if (is_built) limit_token_cache(store.parent_path(), most_bytes);
  }
  return dataset;
}

fs::path token_folder(const fs::path& directory) { return has_cache() ? shared_folder() : directory; }

}  // namespace adept::run
