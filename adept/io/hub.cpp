#include "adept/io/hub.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "adept/core/error.h"
#include "adept/io/line_reader.h"

namespace adept::io {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kMaxRefBytes = 4096;

// Python's os.path.expanduser: ~ and ~name at the start; unknown users stay unchanged.
std::string expand_user(const std::string& text) {
  if (!text.starts_with('~')) return text;
  const std::string user = text.substr(1, text.find('/') - 1);
  const char* home = std::getenv("HOME");
  if (!user.empty() || home == nullptr) {
    const passwd* entry = user.empty() ? ::getpwuid(::getuid()) : ::getpwnam(user.c_str());
    home = entry == nullptr ? nullptr : entry->pw_dir;
  }
  return home == nullptr ? text : home + text.substr(1 + user.size());
}

// Python's os.path.expandvars: $NAME and ${NAME}; unset variables stay unchanged.
std::string expand_variables(const std::string& text) {
  const auto is_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t begin = i + 1, end = begin, after = begin;  // of the name; and of what it stands in
    if (text[i] == '$' && begin < text.size() && text[begin] == '{') {
      end = text.find('}', ++begin);
      after = end == std::string::npos ? end : end + 1;
    } else if (text[i] == '$') {
      while (end < text.size() && is_word(static_cast<unsigned char>(text[end]))) ++end;
      after = end;
    }
    const bool is_reference = after != std::string::npos && end > begin;
    const char* value = is_reference ? std::getenv(text.substr(begin, end - begin).c_str()) : nullptr;
    result += value != nullptr ? std::string(value) : text.substr(i, is_reference ? after - i : 1);
    i = is_reference ? after : i + 1;
  }
  return result;
}

std::optional<fs::path> environment_path(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return fs::path(expand_variables(expand_user(value)));
}

fs::path hub_cache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const auto path = environment_path(name)) return *path;
  if (const auto path = environment_path("HF_HOME")) return *path / "hub";
  if (const auto path = environment_path("XDG_CACHE_HOME")) return *path / "huggingface" / "hub";
  return fs::path(expand_user("~/.cache/huggingface/hub"));
}

bool is_name(std::string_view text) {
  const auto is_allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.front() != '.' && text.find("..") == std::string_view::npos &&
         std::all_of(text.begin(), text.end(), is_allowed);
}

// A branch may contain slashes ("refs/pr/1"); each part must be a name, so the path cannot leave the cache.
bool is_revision(std::string_view text) {
  for (;;) {
    const auto slash = text.find('/');
    if (!is_name(text.substr(0, slash))) return false;
    if (slash == std::string_view::npos) return true;
    text.remove_prefix(slash + 1);
  }
}

struct HubId {
  std::string repository;  // "org/name"; old models have no organisation
  std::string revision;    // empty: main
};

std::optional<HubId> parse_hub_id(const std::string& text) {
  const auto at = text.find('@');
  HubId id{text.substr(0, at), at == std::string::npos ? "" : text.substr(at + 1)};
  const auto slash = id.repository.find('/');
  const bool is_valid = is_name(id.repository.substr(0, slash)) &&
                        (slash == std::string::npos || is_name(id.repository.substr(slash + 1))) &&
                        (at == std::string::npos || is_revision(id.revision));
  if (!is_valid) return std::nullopt;
  return id;
}

std::vector<std::string> snapshots(const fs::path& repository) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(repository / "snapshots", error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

ConfigError miss(const HubId& id, const fs::path& repository) {
  std::string present;
  for (const std::string& name : snapshots(repository)) present += (present.empty() ? "" : ", ") + name;
  return ConfigError(
      "{}{}{}: is neither a folder nor in the local Hugging Face cache ({}){}. Download it with "
      "`hf download {}{}`.",
      id.repository, id.revision.empty() ? "" : "@", id.revision, repository.string(),
      present.empty() ? "" : fmt::format("; there are other revisions: {}", present), id.repository,
      id.revision.empty() ? "" : " --revision " + id.revision);
}

fs::path resolve_hub_id(const HubId& id) {
  std::string folder = "models--" + id.repository;
  if (const auto slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path repository = hub_cache() / folder;
  const std::string revision = id.revision.empty() ? "main" : id.revision;
  std::string commit = revision;
  std::error_code ignored;
  if (const fs::path ref = repository / "refs" / revision; fs::is_regular_file(ref, ignored)) {
    commit = read_text_file(ref, kMaxRefBytes);
    while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back())) != 0) commit.pop_back();
    if (!is_name(commit))
      throw DataError("{}: does not contain a commit id. Remove it and run `hf download {}` again.", ref.string(),
                      id.repository);
  }
  fs::path snapshot = repository / "snapshots" / commit;
  if (!fs::is_directory(snapshot, ignored)) throw miss(id, repository);
  return snapshot;
}

}  // namespace

fs::path resolve_model(const std::string& directory_or_hub_id) {
  const fs::path path(directory_or_hub_id);
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return path;
  if (path.extension() == ".gguf")
    throw ConfigError(
        "{}: is a GGUF file; expected a model folder. Convert it with `adept import-gguf --gguf {} --out DIR`.",
        path.string(), path.string());
  if (fs::exists(path, ignored))
    throw ConfigError("{}: is a file; expected a model folder, or a Hub id such as org/name.", path.string());
  const std::optional<HubId> id = parse_hub_id(directory_or_hub_id);
  if (!id)
    throw ConfigError(
        "{}: is neither an existing folder nor a Hub id; expected a model folder, or org/name or org/name@revision.",
        directory_or_hub_id.empty() ? "the model \"\"" : directory_or_hub_id);
  return resolve_hub_id(*id);
}

}  // namespace adept::io
