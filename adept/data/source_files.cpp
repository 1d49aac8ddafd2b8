#include "adept/data/source_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "adept/core/error.h"
#include "adept/data/text_source.h"
#include "adept/io/gzip_reader.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<std::string_view, FileKind> kExtensions[] = {{".txt", FileKind::kTxt},
                                                                 {".txt.gz", FileKind::kTxt},
                                                                 {".jsonl", FileKind::kJsonl},
                                                                 {".jsonl.gz", FileKind::kJsonl}};

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::string_view known_extension(std::string_view lower_name) {
  for (const auto& [extension, kind] : kExtensions)
    if (lower_name.ends_with(extension)) return extension;
  return "";
}

std::string describe_kind(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "pipe or device";
  fs::path name = path.filename();
  std::string extension = name.extension().string();
  if (lower_case(extension) == ".gz") extension = name.stem().extension().string() + extension;
  return extension.empty() ? "file without extension" : fmt::format("file with extension {}", extension);
}

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with('.'); }

std::vector<fs::path> sorted_entries(const fs::path& folder, std::error_code& error) {
  std::vector<fs::path> entries;
  for (fs::directory_iterator it(folder.empty() ? "." : folder, error), end; !error && it != end; it.increment(error))
    entries.push_back(folder / it->path().filename());
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return entries;
}

/// Expands the names of a pattern from left to right.
class GlobExpander {
 public:
  explicit GlobExpander(const std::string& pattern) {
    for (const fs::path& part : fs::path(pattern).relative_path()) {
      const std::string& name = part.native();
      if (!name.empty() && !(name == "**" && !names_.empty() && names_.back() == "**")) names_.push_back(name);
    }
    if (!names_.empty() && names_.back() == "**") names_.push_back("*");
    expand(fs::path(pattern).root_path(), 0);
  }
  std::set<std::string> matches;

 private:
  void expand(const fs::path& base, std::size_t at) {
    std::error_code error;
    if (at == names_.size()) {
      matches.insert(base.string());
    } else if (names_[at] == "**") {
      expand(base, at + 1);
      for (const fs::path& entry : sorted_entries(base, error))
        if (!is_hidden(entry) && fs::symlink_status(entry, error).type() == fs::file_type::directory) expand(entry, at);
    } else if (is_glob(names_[at])) {
      for (const fs::path& entry : sorted_entries(base, error)) {
        if (fnmatch(names_[at].c_str(), entry.filename().c_str(), FNM_PERIOD) != 0) continue;
        if (at + 1 == names_.size() || fs::is_directory(entry, error)) expand(entry, at + 1);
      }
    } else if (fs::exists(base / names_[at], error)) {
      expand(base / names_[at], at + 1);
    }
  }

  std::vector<std::string> names_;
};

/// Collects the files of a source and every problem with its paths.
class FileFinder {
 public:
  explicit FileFinder(const TextSource& source) : source_(source) {}

  SourceFiles find() {
    if (source_.paths.empty()) problems_.push_back("it has no paths");
    for (const std::string& path : source_.paths) add_path(path);
    if (!problems_.empty()) {
      std::string list;
      for (const std::string& problem : problems_) list += "\n  " + problem;
      throw ConfigError("source \"{}\": its text cannot be found. Files that are read: {}; also folders and globs.{}",
                        source_.name, kAcceptedFiles, list);
    }
    return std::move(found_);
  }

 private:
  void add_path(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status)) {
      require_files(path, [&] { walk(path); });
    } else if (io::is_stream(path)) {
      found_.files.push_back(path);
    } else if (fs::exists(status)) {
      if (!add_file(path)) problems_.push_back(fmt::format("{}: a {}", path, describe_kind(path)));
    } else if (is_glob(path)) {
      require_files(path, [&] {
        for (const fs::path& match : expand_glob(path)) add_entry(match);
      });
    } else {
      problems_.push_back(fmt::format("{}: {}", path.empty() ? "\"\"" : path,
                                      status.type() == fs::file_type::not_found ? "does not exist" : error.message()));
    }
  }

  template <typename Add>
  void require_files(const std::string& path, const Add& add) {
    num_matched_ = 0;
    add();
    if (num_matched_ == 0) problems_.push_back(fmt::format("{}: holds or matches no such file", path));
  }

  void walk(const fs::path& folder) {
    std::error_code error;
    if (!visited_.insert(fs::canonical(folder, error).string()).second) {
      ++found_.ignored["folder that was read already"];
      ++num_matched_;
      return;
    }
    const auto entries = sorted_entries(folder, error);
    if (error) throw DataError("{}: the folder cannot be read: {}.", folder.string(), error.message());
    for (const fs::path& entry : entries) {
      if (is_hidden(entry))
        ++found_.ignored["hidden file or folder"];
      else
        add_entry(entry);
    }
  }

  void add_entry(const fs::path& entry) {
    std::error_code error;
    const fs::file_status status = fs::status(entry, error);
    if (fs::is_directory(status))
      walk(entry);
    else if (!fs::exists(status))
      ++found_.ignored["broken link"];
    else if (!add_file(entry))
      ++found_.ignored[describe_kind(entry)];
  }

  bool add_file(const fs::path& file) {
    std::error_code error;
    if (!file_kind(file) || !fs::is_regular_file(file, error)) return false;
    ++num_matched_;
    if (visited_.insert(fs::canonical(file, error).string()).second)
      found_.files.push_back(file);
    else
      ++found_.ignored["file that was listed already"];
    return true;
  }

  const TextSource& source_;
  SourceFiles found_;
  std::set<std::string> visited_;  // canonical paths of files and folders
  std::int64_t num_matched_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace

std::optional<FileKind> file_kind(const fs::path& path) {
  const std::string name = lower_case(path.filename().string());
  const std::string_view extension = known_extension(name);
  for (const auto& [known, kind] : kExtensions)
    if (known == extension) return kind;
  if (!io::is_stream(path)) return std::nullopt;
  // What has no name says by its first character what it is.
  std::string start(64, '\0');
  start.resize(io::ByteReader(path).read(start));
  const auto first = start.find_first_not_of("\xef\xbb\xbf \t\r\n");
  return first != std::string::npos && start[first] == '{' ? FileKind::kJsonl : FileKind::kTxt;
}

std::string bare_name(const fs::path& path) {
  std::string name = path.filename().string();
  name.resize(name.size() - known_extension(lower_case(name)).size());
  return name;
}

bool is_glob(std::string_view path) { return path.find_first_of("*?[") != std::string_view::npos; }

std::vector<fs::path> expand_glob(const std::string& pattern) {
  const GlobExpander expander(pattern);
  return {expander.matches.begin(), expander.matches.end()};
}

SourceFiles find_files(const TextSource& source) { return FileFinder(source).find(); }

}  // namespace adept::data
