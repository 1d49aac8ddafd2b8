#include "adept/data/source_paths.h"

#include <fnmatch.h>

#include <algorithm>
#include <set>
#include <utility>

#include "adept/core/signals.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

// The names of a pattern.
std::vector<std::string> names_of(const fs::path& pattern) {
  std::vector<std::string> names;
  for (const fs::path& part : pattern.relative_path()) {
    const std::string& name = part.native();
    if (!name.empty() && !(name == "**" && !names.empty() && names.back() == "**")) names.push_back(name);
  }
  if (!names.empty() && names.back() == "**") names.emplace_back("*");
  return names;
}

/// Expands the names of a pattern from left to right.
class GlobExpander {
 public:
  explicit GlobExpander(const std::string& pattern) : names_(names_of(pattern)) {
    expand(fs::path(pattern).root_path(), 0);
  }
  std::set<std::string> matches;

 private:
  // A folder that the pattern matches but does not name. One that is reached again through a link ends a loop.
  bool enters(const fs::path& folder, std::size_t at) {
    std::error_code error;
    if (!written_folder(folder).empty()) return false;
    if (!fs::is_symlink(folder, error)) return true;
    return visited_.emplace(fs::canonical(folder, error).string(), at).second;
  }

  void expand(const fs::path& base, std::size_t at) {
    throw_if_interrupted();
    std::error_code error;
    if (at == names_.size()) {
      matches.insert(base.string());
    } else if (names_[at] == "**") {
      expand(base, at + 1);
      for (const fs::path& entry : sorted_entries(base, error))
        if (!is_hidden(entry) && fs::symlink_status(entry, error).type() == fs::file_type::directory &&
            enters(entry, at))
          expand(entry, at);
    } else if (is_glob(names_[at])) {
      for (const fs::path& entry : sorted_entries(base, error)) {
        if (fnmatch(names_[at].c_str(), entry.filename().c_str(), FNM_PERIOD) != 0) continue;
        if (at + 1 == names_.size() || (fs::is_directory(entry, error) && enters(entry, at + 1))) expand(entry, at + 1);
      }
    } else if (fs::exists(base / names_[at], error)) {
      expand(base / names_[at], at + 1);
    }
  }

  std::vector<std::string> names_;
  std::set<std::pair<std::string, std::size_t>> visited_;  // the places of links to folders, and where in the pattern
};

}  // namespace

std::string_view written_folder(const fs::path& folder) {
  std::error_code error;
  const auto has = [&](const char* name) { return fs::exists(folder / name, error); };
  if (has("stages") && (has("versions.json") || has("config.yaml"))) return kRunFolder;
  if (has("config.json") && (has("tokenizer.json") || has("model.safetensors") || has("model.safetensors.index.json")))
    return "model folder";
  if (has("store.json") || has("00000.tokens")) return kStoreFolder;
  return "";
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

std::vector<fs::path> sorted_entries(const fs::path& folder, std::error_code& error) {
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder.empty() ? "." : folder, error), end; !error && it != end; it.increment(error))
    entries.push_back(folder / it->path().filename());
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return entries;
}

bool is_glob(std::string_view path) { return path.find_first_of("*?[") != std::string_view::npos; }

std::vector<fs::path> expand_glob(const std::string& pattern) {
  const GlobExpander expander(pattern);
  return {expander.matches.begin(), expander.matches.end()};
}

GlobPattern::GlobPattern(const std::string& pattern) {
  fs::path rest;
  for (const fs::path& part : fs::absolute(pattern)) {
    if (rest.empty() && !is_glob(part.native()))
      base_ /= part;
    else
      rest /= part;
  }
  std::error_code error;
  base_ = fs::weakly_canonical(base_, error);
  names_ = names_of(rest);
}

bool GlobPattern::matches(const fs::path& file, const fs::path& left_out) const {
  const fs::path below = file.lexically_relative(base_);
  if (below.empty() || *below.begin() == "..") return false;
  return matches(base_, 0, {below.begin(), below.end()}, left_out);
}

bool GlobPattern::matches(const fs::path& folder, std::size_t at, const std::vector<fs::path>& rest,
                          const fs::path& left_out) const {
  if (at == names_.size() || rest.empty()) return at == names_.size() && rest.empty();
  const bool any = names_[at] == "**";
  if (any && matches(folder, at + 1, rest, left_out)) return true;
  if (any ? is_hidden(rest.front()) : fnmatch(names_[at].c_str(), rest.front().c_str(), FNM_PERIOD) != 0) return false;
  const fs::path next = folder / rest.front();
  if (rest.size() > 1 && next == left_out && is_glob(names_[at])) return false;
  return matches(next, any ? at : at + 1, {rest.begin() + 1, rest.end()}, left_out);
}

}  // namespace adept::data
