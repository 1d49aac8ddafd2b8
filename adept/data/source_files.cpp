#include "adept/data/source_files.h"

#include <fnmatch.h>

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/data/text_source.h"
#include "adept/io/line_reader.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::pair<std::string_view, FileKind> kExtensions[] = {{".txt", FileKind::kTxt},
                                                                 {".txt.gz", FileKind::kTxt},
                                                                 {".jsonl", FileKind::kJsonl},
                                                                 {".jsonl.gz", FileKind::kJsonl}};

constexpr std::string_view kRunFolder = "folder of an adept run";

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

std::optional<FileKind> kind_by_name(const fs::path& path) {
  const std::string name = lower_case(path.filename().string());
  const std::string_view extension = known_extension(name);
  for (const auto& [known, kind] : kExtensions)
    if (known == extension) return kind;
  return std::nullopt;
}

std::string describe_kind(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "pipe or device";
  fs::path name = path.filename();
  std::string extension = name.extension().string();
  if (lower_case(extension) == ".gz") extension = name.stem().extension().string() + extension;
  return extension.empty() ? "file without extension" : fmt::format("file with extension {}", extension);
}

// How to convert an unsupported file to a supported one: a command, or advice.
std::string conversion(const fs::path& path) {
  const std::string extension = lower_case(path.extension().string());
  const std::string jsonl = fs::path(path).replace_extension(".jsonl").string();
  const auto python = [&](std::string_view code) {
    return fmt::format(". Convert it: python -c \"{}\" {} > {}", code, path.string(), jsonl);
  };
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "";
  if (extension == ".parquet" || extension == ".arrow" || extension == ".feather")
    return fmt::format(
        ". Convert it: python -c \"import pandas, sys; pandas.read_{}(sys.argv[1]).to_json(sys.argv[2], "
        "orient='records', lines=True)\" {} {}",
        extension == ".parquet" ? "parquet" : "feather", path.string(), jsonl);
  if (extension == ".csv" || extension == ".tsv")
    return python(
        fmt::format("import csv, json, sys; [print(json.dumps(row)) for row in "
                    "csv.DictReader(open(sys.argv[1], newline=''){})]",
                    extension == ".tsv" ? ", delimiter='\\t'" : ""));
  if (extension == ".json")
    return python("import json, sys; [print(json.dumps(record)) for record in json.load(open(sys.argv[1]))]");
  for (const auto& [packed, command] : {std::pair(".zst", "zstd -d"), std::pair(".xz", "xz -dk"),
                                        std::pair(".bz2", "bzip2 -dk"), std::pair(".zip", "unzip")})
    if (extension == packed) return fmt::format(". Unpack it: {} {}", command, path.string());
  return fmt::format(". If it is plain text, add the extension: ln -s {} {}.txt", path.filename().string(),
                     path.string());
}

// Names the kind of a folder that adept wrote or that contains a model; such folders contain no training text.
std::string_view written_folder(const fs::path& folder) {
  std::error_code error;
  const auto has = [&](const char* name) { return fs::exists(folder / name, error); };
  if (has("stages") && (has("versions.json") || has("config.yaml"))) return kRunFolder;
  if (has("config.json") && (has("tokenizer.json") || has("model.safetensors") || has("model.safetensors.index.json")))
    return "model folder";
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

/// Whether a pattern matches a file, which need not exist.
class GlobPattern {
 public:
  explicit GlobPattern(const std::string& pattern) {
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

  /// `file` is canonical. Globs do not enter the folder `left_out`; explicit names do.
  bool matches(const fs::path& file, const fs::path& left_out = {}) const {
    const fs::path below = file.lexically_relative(base_);
    if (below.empty() || *below.begin() == "..") return false;
    return matches(base_, 0, {below.begin(), below.end()}, left_out);
  }

 private:
  bool matches(const fs::path& folder, std::size_t at, const std::vector<fs::path>& rest,
               const fs::path& left_out) const {
    if (at == names_.size() || rest.empty()) return at == names_.size() && rest.empty();
    const bool any = names_[at] == "**";
    if (any && matches(folder, at + 1, rest, left_out)) return true;
    if (any ? is_hidden(rest.front()) : fnmatch(names_[at].c_str(), rest.front().c_str(), FNM_PERIOD) != 0)
      return false;
    const fs::path next = folder / rest.front();
    if (rest.size() > 1 && next == left_out && is_glob(names_[at])) return false;
    return matches(next, any ? at : at + 1, {rest.begin() + 1, rest.end()}, left_out);
  }

  fs::path base_;  // the folders before the first name with a glob
  std::vector<std::string> names_;
};

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

/// Collects the files of a source and every problem with its paths.
class FileFinder {
 public:
  explicit FileFinder(const TextSource& source) : source_(source) {}

  SourceFiles find() {
    if (source_.paths.empty()) problems_.push_back("found no path; expected at least one");
    for (const std::string& path : source_.paths) add_path(path);
    if (!problems_.empty()) {
      std::string list;
      for (const std::string& problem : problems_) list += "\n  " + problem;
      throw ConfigError("source \"{}\": no text found; expected {} files, or folders or globs of them.{}", source_.name,
                        kAcceptedFiles, list);
    }
    return std::move(found_);
  }

 private:
  void add_path(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status) && written_folder(path) == kRunFolder) {
      problems_.push_back(fmt::format("{}: is a {}; its records are not text", path, kRunFolder));
    } else if (fs::is_directory(status)) {
      require_files(path, [&] { walk(path); });
    } else if (io::is_stream(path)) {
      found_.files.push_back(path);
    } else if (fs::exists(status)) {
      if (!add_file(path))
        problems_.push_back(fmt::format("{}: is a {}{}", path, describe_kind(path), conversion(path)));
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
    other_file_.clear();
    add();
    if (num_matched_ > 0) return;
    problems_.push_back(fmt::format("{}: contains or matches no such file", path));
    if (!other_file_.empty())
      problems_.back() +=
          fmt::format(", but {}, a {}{}", other_file_.string(), describe_kind(other_file_), conversion(other_file_));
  }

  void walk(const fs::path& folder) {
    throw_if_interrupted();
    std::error_code error;
    if (!visited_.insert(fs::canonical(folder, error).string()).second) {
      ++found_.ignored["folder already read"];
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
    if (fs::is_directory(status)) {
      if (const std::string_view written = written_folder(entry); !written.empty())
        ++found_.ignored[std::string(written)];
      else
        walk(entry);
    } else if (!fs::exists(status)) {
      ++found_.ignored["broken link"];
    } else if (!add_file(entry)) {
      ++found_.ignored[describe_kind(entry)];
      if (other_file_.empty()) other_file_ = entry;
    }
  }

  bool add_file(const fs::path& file) {
    std::error_code error;
    if (!file_kind(file) || !fs::is_regular_file(file, error)) return false;
    ++num_matched_;
    if (visited_.insert(fs::canonical(file, error).string()).second)
      found_.files.push_back(file);
    else
      ++found_.ignored["file already listed"];
    return true;
  }

  const TextSource& source_;
  SourceFiles found_;
  std::set<std::string> visited_;  // canonical paths of files and folders
  std::int64_t num_matched_ = 0;
  fs::path other_file_;  // the first file of an unsupported kind
  std::vector<std::string> problems_;
};

}  // namespace

std::optional<FileKind> file_kind(const fs::path& path) {
  if (const auto kind = kind_by_name(path)) return kind;
  if (!io::is_stream(path)) return std::nullopt;
  // The first character determines the kind of a stream, which has no name.
  std::string start(64, '\0');
  start.resize(io::ByteReader(path).read(start));
  const auto first = start.find_first_not_of("\xef\xbb\xbf \t\r\n");
  return first != std::string::npos && start[first] == '{' ? FileKind::kJsonl : FileKind::kTxt;
}

bool is_glob(std::string_view path) { return path.find_first_of("*?[") != std::string_view::npos; }

std::vector<fs::path> expand_glob(const std::string& pattern) {
  const GlobExpander expander(pattern);
  return {expander.matches.begin(), expander.matches.end()};
}

SourceFiles find_files(const TextSource& source) { return FileFinder(source).find(); }

void check_not_read(const TextSource& source, const fs::path& output, const std::string& option,
                    const std::vector<std::string>& records) {
  std::error_code error;
  const fs::path target = fs::weakly_canonical(output, error);
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    throw ConfigError("{} {}: {} the source \"{}\"; {}.", option, output.string(), found, source.name, expected);
  };
  for (const std::string& path : source.paths) {
    const fs::path read = fs::weakly_canonical(path, error);
    if (read == target) refuse("is an input of", "expected a separate path");
    const fs::path below = target.lexically_relative(read);
    if (kind_by_name(output) && fs::is_directory(read, error) && !below.empty() && *below.begin() != "..")
      refuse(fmt::format("is inside {}, an input of", path),
             "the next run would read it as text. Choose another folder or another extension");
    if (!is_glob(path) || fs::exists(path, error)) continue;
    if (kind_by_name(output) && GlobPattern(path).matches(target))
      refuse(fmt::format("matches {}, an input of", path),
             "the next run would read it as text. Choose another folder or another name");
    for (const std::string& record : records)
      if (GlobPattern(path).matches(target / record, target))
        refuse(fmt::format("will contain {}, which matches {}, an input of", record, path),
               "the next run would read it as text. Choose another folder");
  }
  if (!kind_by_name(output) || !fs::exists(target, error)) return;
  for (const fs::path& file : find_files(source).files)
    if (fs::weakly_canonical(file, error) == target) refuse("is an input of", "expected a separate path");
}

}  // namespace adept::data
