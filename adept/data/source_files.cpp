#include "adept/data/source_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

#include "adept/core/error.h"
#include "adept/core/file.h"
#include "adept/core/signals.h"
#include "adept/data/interchange/token_files.h"
#include "adept/data/source_paths.h"
#include "adept/data/splits.h"
#include "adept/io/byte_reader.h"
#include "adept/io/rereadable.h"

namespace adept::data {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxListBytes = std::size_t{64} << 20;

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::string describe_kind(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return "pipe or device";
  fs::path name = path.filename();
  std::string extension = name.extension().string();
  if (!io::compression_extension(lower_case(extension)).empty())
    extension = name.stem().extension().string() + extension;
  return extension.empty() ? "file without extension" : fmt::format("file with extension {}", extension);
}

// What to do with a file of an unknown kind.
std::string advice_for(const fs::path& path) {
  const std::string extension = lower_case(path.extension().string());
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return ". Pass it as standard input instead: adept ... --data - < PATH";
  for (const auto& [packed, command] :
       {std::pair(".xz", "xz -dk"), std::pair(".bz2", "bzip2 -dk"), std::pair(".zip", "unzip")})
    if (extension == packed) return fmt::format(". Unpack it: {} {}", command, path.string());
  return fmt::format(". If it is plain text, set format: text (--format text); other formats: {}",
                     fmt::join(format_names(), ", "));
}

bool is_url(const std::string& path) {
  const auto colon = path.find("://");
  return colon != std::string::npos && colon > 0 &&
         std::ranges::all_of(path.substr(0, colon), [](unsigned char c) { return std::isalnum(c) != 0; });
}

// Whether a path that does not exist may be the name of a data set of the Hub: OWNER/NAME.
bool is_hub_name(const fs::path& path) {
  std::error_code error;
  return std::isalnum(static_cast<unsigned char>(path.native().front())) != 0 && path.has_filename() &&
         std::distance(path.begin(), path.end()) == 2 && format_of_file(path) == nullptr &&
         !fs::exists(path.parent_path(), error);
}

// The two files of a Megatron-Core dataset, if only one of them is there; else nothing.
std::string half_of_megatron(const fs::path& path) {
  fs::path prefix = path;
  if (path.extension() == ".bin" || path.extension() == ".idx") prefix.replace_extension();
  const std::string bin = prefix.string() + ".bin", index = prefix.string() + ".idx";
  std::error_code error;
  const bool has_bin = fs::is_regular_file(bin, error), has_index = fs::is_regular_file(index, error);
  if (has_bin == has_index) return "";
  return fmt::format("; a Megatron-Core dataset consists of two files, and {} is missing beside {}",
                     has_bin ? index : bin, has_bin ? bin : index);
}

// Why a path that does not exist is not found.
std::string describe_absent(const std::string& path) {
  if (path.empty()) return "\"\": does not exist";
  constexpr char kDownload[] = "hf download NAME --repo-type dataset --local-dir FOLDER";
  if (is_url(path))
    return fmt::format("{}: is a URL; expected a local path. Download the data first (from the Hugging Face Hub: {})",
                       path, kDownload);
  if (is_hub_name(path))
    return fmt::format("{}: does not exist. If it is a data set of the Hugging Face Hub, download it first: {}", path,
                       kDownload);
  return fmt::format("{}: does not exist{}", path, half_of_megatron(path));
}

bool is_readme(const fs::path& path) { return lower_case(path.stem().string()) == "readme"; }

/// A path of a source, or a line of a list.
struct ListedPath {
  std::string path;
  std::string origin{};  ///< for messages: "files.txt:3: "
};

// The lines of a list, which are paths.
void add_lines(const std::string& list, std::vector<ListedPath>& paths, std::vector<std::string>& problems) {
  std::error_code error;
  if (!fs::exists(list, error)) {
    problems.push_back(fmt::format("@{}: the list does not exist", list));
    return;
  }
  const std::string text = read_all(io::open_rereadable(list), list, kMaxListBytes);
  if (text.size() > kMaxListBytes || text.find('\0') != std::string::npos) {
    problems.push_back(fmt::format("@{}: is not a list of paths; expected text with one path per line", list));
    return;
  }
  std::istringstream lines(text);
  std::int64_t number = 0;
  const std::size_t before = paths.size();
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    const std::string origin = fmt::format("{}:{}: ", list, number);
    if (line.starts_with('@') && !fs::exists(line, error))
      problems.push_back(
          fmt::format("{}{}: is a list; expected a path, because lists cannot contain lists", origin, line));
    else if (!line.empty())
      paths.push_back({line == "-" ? "/dev/stdin" : line, origin});
  }
  if (paths.size() == before && problems.empty()) problems.push_back(fmt::format("@{}: the list is empty", list));
}

// An existing file is itself, whatever its name looks like.
bool is_list(const std::string& path) {
  std::error_code error;
  return path.starts_with('@') && !fs::exists(path, error);
}

std::vector<ListedPath> listed_paths(const TextSource& source, std::vector<std::string>& problems) {
  std::vector<ListedPath> paths;
  for (const std::string& path : source.paths)
    if (is_list(path))
      add_lines(path.substr(1), paths, problems);
    else
      paths.push_back({path == "-" ? "/dev/stdin" : path});
  return paths;
}

/// Collects the files of a source and every problem with its paths.
class FileFinder {
 public:
  explicit FileFinder(const TextSource& source)
      : source_(source), format_(source.format ? format_by_name(*source.format) : nullptr) {}

  SourceFiles find() {
    if (source_.paths.empty()) problems_.push_back("found no path; expected at least one");
    for (const ListedPath& path : listed_paths(source_, problems_)) {
      origin_ = path.origin;
      add_path(path.path);
    }
    if (source_.split && !has_splits_ && problems_.empty())
      problems_.push_back(
          fmt::format("split: found {}, but no folder or glob whose files it could select", *source_.split));
    check_fields();
    if (!problems_.empty()) {
      std::string list;
      for (const std::string& problem : problems_) list += "\n  " + problem;
      if (is_kind_a_problem_)
        list += fmt::format("\nText is read from {}, and folders and globs of them.", accepted_files());
      throw ConfigError("source \"{}\": its text cannot be read:{}", source_.name, list);
    }
    return std::move(found_);
  }

 private:
  // Options that name fields need files that have some. Beside such files, text may lie in a source with a text_field.
  void check_fields() {
    if (!problems_.empty() || (!source_.text_template && !source_.messages_field && !source_.text_field)) return;
    const char* option = source_.text_template ? "template" : source_.messages_field ? "messages_field" : "text_field";
    const auto first = problems_.size();
    for (const fs::path& file : found_.files) {
      const Format& format = format_in(source_, file);
      if (format.has_fields && source_.text_field) return problems_.resize(first);
      if (!format.has_fields)
        problems_.push_back(fmt::format("{}: found fields, but {} is a {} file{}, whose records have none; expected {}",
                                        option, file.string(), format.name,
                                        io::is_stream(file) ? " by its first bytes" : "",
                                        io::is_stream(file) ? "JSON, or its format (--format csv, ...)"
                                                            : "files of other formats, or no such option"));
    }
  }

  void add_path(const std::string& path) {
    std::error_code error;
    const fs::file_status status = fs::status(path, error);
    if (fs::is_directory(status) && written_folder(path) == kRunFolder) {
      add_problem(fmt::format("{}: is a {}; its records are not text", path, kRunFolder));
    } else if (fs::is_directory(status)) {
      require_files(path, [&] { walk(path); });
    } else if (io::is_stream(path)) {
      found_.files.push_back(path);
    } else if (fs::exists(status)) {
      if (add_file(path, Named::kByPath)) return;
      is_kind_a_problem_ = true;
      add_problem(fmt::format("{}: is a {}{}{}", path, describe_kind(path), half_of_megatron(path), advice_for(path)));
    } else if (is_glob(path) && !is_url(path)) {
      require_files(path, [&] {
        for (const fs::path& match : expand_glob(path)) add_entry(match, Named::kByGlob);
      });
    } else {
      add_problem(status.type() == fs::file_type::not_found || path.empty()
                      ? describe_absent(path)
                      : fmt::format("{}: {}", path, error.message()));
    }
  }

  void add_problem(const std::string& problem) { problems_.push_back(origin_ + problem); }

  template <typename Add>
  void require_files(const std::string& path, const Add& add) {
    const std::size_t first = found_.files.size();
    num_matched_ = 0;
    other_file_.clear();
    add();
    if (num_matched_ > 0) return select_split(path, first);
    is_kind_a_problem_ = true;
    add_problem(fmt::format("{}: contains or matches no file of text", path));
    if (!other_file_.empty())
      problems_.back() +=
          fmt::format(", but {}, a {}{}", other_file_.string(), describe_kind(other_file_), advice_for(other_file_));
  }

  // Of the files from `first` on, which `path` has added.
  void select_split(const std::string& path, std::size_t first) {
    has_splits_ = true;
    const fs::path folder = is_glob(path) ? fs::path() : fs::path(path);
    std::set<std::string> splits;
    std::vector<fs::path> selected;
    for (std::size_t i = first; i < found_.files.size(); ++i) {
      const fs::path& file = found_.files[i];
      const std::string split = format_in(source_, file).has_fields ? split_of(file, folder) : "";
      if (!split.empty()) splits.insert(split);
      if (!source_.split || split == canonical_split(*source_.split))
        selected.push_back(file);
      else
        leave_out(file);
    }
    const std::string list = fmt::format("{}", fmt::join(splits, ", "));
    if (source_.split && selected.empty() && first < found_.files.size())
      add_problem(fmt::format("{}: has no split {}; it has {}", path, *source_.split,
                              list.empty() ? "no files that belong to a split" : list));
    else if (!source_.split && splits.size() > 1 && !is_glob(path))
      add_problem(
          fmt::format("{}: has several splits: {}. Choose one with split (--split), or name the files", path, list));
    else if (!source_.split && splits.size() > 1)
      found_.warnings.push_back(
          fmt::format("{}: all of its splits are read: {}. To read one, set split (--split)", path, list));
    for (const std::string& missing : missing_shards(selected))
      found_.warnings.push_back(fmt::format("source \"{}\": {}", source_.name, missing));
    found_.files.resize(first);
    found_.files.insert(found_.files.end(), selected.begin(), selected.end());
  }

  void leave_out(const fs::path& file) {
    std::error_code error;
    visited_.erase(fs::canonical(file, error).string());
    ++found_.ignored["file of another split"];
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
        add_entry(entry, Named::kByFolder);
    }
  }

  enum class Named { kByPath, kByGlob, kByFolder };

  void add_entry(const fs::path& entry, Named named) {
    std::error_code error;
    const fs::file_status status = fs::status(entry, error);
    if (fs::is_directory(status)) {
      if (const std::string_view written = written_folder(entry); !written.empty())
        ++found_.ignored[std::string(written)];
      else
        walk(entry);
    } else if (!fs::exists(status)) {
      ++found_.ignored["broken link"];
    } else if (const std::string_view record = dataset_record(entry); !record.empty()) {
      ++found_.ignored[std::string(record)];
    } else if (format_ == nullptr && is_readme(entry) && format_of_file(entry) != nullptr) {
      ++found_.ignored["README"];
    } else if (!add_file(entry, named)) {
      ++found_.ignored[describe_kind(entry)];
      if (other_file_.empty()) other_file_ = entry;
    }
  }

  // Whether a file is read. A format that is set applies to files of any name, except those of a folder that have the
  // extension of another format.
  bool is_readable(const fs::path& file, Named named) const {
    const Format* by_name = format_of_file(file);
    if (format_ == nullptr) return by_name != nullptr;
    return named != Named::kByFolder || by_name == nullptr || by_name == format_;
  }

  bool add_file(const fs::path& file, Named named) {
    std::error_code error;
    if (!is_readable(file, named) || !fs::is_regular_file(file, error)) return false;
    ++num_matched_;
    if (visited_.insert(fs::canonical(file, error).string()).second)
      found_.files.push_back(file);
    else
      ++found_.ignored["file already listed"];
    return true;
  }

  const TextSource& source_;
  const Format* format_;  // that is set
  SourceFiles found_;
  std::set<std::string> visited_;  // canonical paths of files and folders
  std::int64_t num_matched_ = 0;
  bool has_splits_ = false;         // a folder or glob was searched
  fs::path other_file_;             // the first file of an unsupported kind
  std::string origin_;              // of the current path
  bool is_kind_a_problem_ = false;  // a problem is that there are no files of the known kinds
  std::vector<std::string> problems_;
};

}  // namespace

const Format& format_in(const TextSource& source, const fs::path& file) {
  const Format* format = source.format ? format_by_name(*source.format) : format_of_file(file);
  return format != nullptr ? *format : format_of_stream(file);
}

SourceFiles find_files(const TextSource& source) {
  if (std::optional<TokenFiles> tokens = find_token_files(source))
    return {.files = std::move(tokens->files), .ignored = {}, .are_tokens = true, .warnings = {}};
  return FileFinder(source).find();
}

void check_not_read(const TextSource& source, const fs::path& output, const std::string& option,
                    const std::vector<std::string>& records) {
  std::error_code error;
  const fs::path target = fs::weakly_canonical(output, error);
  const auto refuse = [&](const std::string& found, const std::string& expected) {
    throw ConfigError("{} {}: {} the source \"{}\"; {}.", option, output.string(), found, source.name, expected);
  };
  const Format* by_name = format_of_file(output);
  const bool is_read = by_name != nullptr || (source.format && output.has_extension());  // in a folder
  for (const std::string& path : source.paths)
    if (is_list(path) && fs::weakly_canonical(path.substr(1), error) == target)
      refuse("is an input of", "expected a separate path");
  std::vector<std::string> ignored;
  for (const auto& [path, origin] : listed_paths(source, ignored)) {
    const fs::path read = fs::weakly_canonical(path, error);
    if (read == target) refuse("is an input of", "expected a separate path");
    const fs::path below = target.lexically_relative(read);
    if (is_read && fs::is_directory(read, error) && !below.empty() && *below.begin() != "..")
      refuse(fmt::format("is inside {}, an input of", path),
             "the next run would read it as text. Choose another folder or another extension");
    if (!is_glob(path) || fs::exists(path, error)) continue;
    if (is_read && GlobPattern(path).matches(target))
      refuse(fmt::format("matches {}, an input of", path),
             "the next run would read it as text. Choose another folder or another name");
    for (const std::string& record : records)
      if (GlobPattern(path).matches(target / record, target))
        refuse(fmt::format("will contain {}, which matches {}, an input of", record, path),
               "the next run would read it as text. Choose another folder");
  }
  if (!is_read || !fs::exists(target, error)) return;
  for (const fs::path& file : find_files(source).files)
    if (fs::weakly_canonical(file, error) == target) refuse("is an input of", "expected a separate path");
}

}  // namespace adept::data
