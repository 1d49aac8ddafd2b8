#include "adept/io/companion_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "adept/core/file.h"
#include "adept/core/log.h"
#include "adept/io/atomic_file.h"
#include "adept/io/mapped_file.h"

namespace adept::io {
namespace fs = std::filesystem;
namespace {

constexpr std::uintmax_t kMaxCopiedBytes = 100'000'000;  // of a file, or of a folder
constexpr std::size_t kMaxFolderFiles = 1000;
constexpr int kMaxCopiedDepth = 4;

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// Weights, or files that are useless without them.
bool is_weights(const std::string& file) {
  constexpr std::array<std::string_view, 24> kExtensions = {
      ".safetensors", ".bin", ".pt",  ".pth",     ".ckpt",   ".gguf",   ".ggml",   ".onnx",
      ".onnx_data",   ".h5",  ".ot",  ".msgpack", ".npz",    ".npy",    ".tflite", ".mlmodel",
      ".mlpackage",   ".pb",  ".pkl", ".pickle",  ".joblib", ".engine", ".plan",   ".nemo"};
  const std::string name = lower_case(file);
  const std::string extension = fs::path(name).extension().string();
  return std::find(kExtensions.begin(), kExtensions.end(), extension) != kExtensions.end() ||
         name.ends_with(".index.json") || name == "adapter_config.json";
}

// Files of this program, logs, or the model card, which describes the original model.
bool is_record(const std::string& name) {
  return (name.starts_with("adept_") && name.ends_with(".json") && name != kAddedTokensRecord) ||
         name.ends_with(".tokens") || name.find(".tfevents.") != std::string::npos || name == "README.md";
}

bool is_in_folder(const fs::path& path, const fs::path& folder) {
  std::error_code ignored;
  const fs::path root = fs::weakly_canonical(folder, ignored);
  const fs::path relative = fs::weakly_canonical(path, ignored).lexically_relative(root);
  return !relative.empty() && *relative.begin() != "..";
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    entries.push_back(it->path());
  if (error) throw system_error(folder, "list the folder", error.value());
  std::sort(entries.begin(), entries.end());
  return entries;
}

class Copy {
 public:
  Copy(const fs::path& from, const fs::path& to) : from_(from), to_(to) {}

  void run() {
    std::vector<fs::path> files;
    collect(from_, 0, files);
    for (const fs::path& file : files) {
      const fs::path target = to_ / file.lexically_relative(from_);
      std::error_code error;
      fs::create_directories(target.parent_path(), error);
      if (error) throw system_error(target.parent_path(), "create the folder", error.value());
      write_file_atomically(target, MappedFile::open(file)->bytes());
    }
    if (!left_out_.empty())
      log_once(LogLevel::kInfo,
               fmt::format("{}: not copied to the new model: {}", from_.string(), fmt::join(left_out_, ", ")));
  }

 private:
  // Adds the files to copy from `folder`; returns false if it is another model.
  bool collect(const fs::path& folder, int depth, std::vector<fs::path>& files) {
    for (const fs::path& path : entries_of(folder)) {
      const std::string name = path.filename().string();
      std::error_code ignored;
      if (name.starts_with('.')) continue;
      if (fs::is_directory(path, ignored)) {
        collect_folder(path, depth + 1, files);
      } else if (is_weights(name) || name == "config.json") {
        if (depth > 0) return false;
      } else if (is_record(name)) {
        continue;
      } else if (const std::string reason = why_not(path, name); !reason.empty()) {
        leave_out(path, reason);
      } else {
        files.push_back(path);
      }
    }
    return true;
  }

  void collect_folder(const fs::path& folder, int depth, std::vector<fs::path>& files) {
    if (std::error_code ignored; fs::is_symlink(folder, ignored)) return leave_out(folder, "a link to a folder");
    if (depth > kMaxCopiedDepth) return leave_out(folder, "too deep");
    if (is_in_folder(to_, folder)) return;
    std::vector<fs::path> inside;
    const std::size_t num_left_out = left_out_.size();
    const bool is_model = !collect(folder, depth, inside);
    const std::uintmax_t size = total_size(inside);
    if (!is_model && inside.size() <= kMaxFolderFiles && size <= kMaxCopiedBytes) {
      files.insert(files.end(), inside.begin(), inside.end());
      return;
    }
    left_out_.resize(num_left_out);
    leave_out(folder, is_model ? "another model" : fmt::format("{} files, {} bytes", inside.size(), size));
  }

  static std::uintmax_t total_size(const std::vector<fs::path>& files) {
    std::uintmax_t total = 0;
    std::error_code error;
    for (const fs::path& file : files)
      if (const std::uintmax_t size = fs::file_size(file, error); !error) total += size;
    return total;
  }

  // Empty for a file to copy. A broken link is an incomplete download, not an absent file: opening it reports that.
  static std::string why_not(const fs::path& path, const std::string& name) {
    std::error_code error;
    const fs::file_type type = fs::status(path, error).type();
    if (type == fs::file_type::not_found) return {};
    if (type != fs::file_type::regular) return "not a regular file";
    const std::uintmax_t size = fs::file_size(path, error);
    return !error && size > kMaxCopiedBytes && !name.starts_with("tokenizer") ? fmt::format("{} bytes", size) : "";
  }

  void leave_out(const fs::path& path, const std::string& reason) {
    left_out_.push_back(fmt::format("{} ({})", path.lexically_relative(from_).string(), reason));
  }

  const fs::path& from_;
  const fs::path& to_;
  std::vector<std::string> left_out_;
};

}  // namespace

void copy_companion_files(const fs::path& from_dir, const fs::path& to_dir) { Copy(from_dir, to_dir).run(); }

}  // namespace adept::io
