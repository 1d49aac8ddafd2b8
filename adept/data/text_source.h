// Text in: files, folders and globs of .txt and .jsonl, plain or gzipped, read as one document after another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/data/options.h"
#include "adept/data/source_counts.h"

namespace adept::data {

/// The files of a source, in the order in which they are read.
struct SourceFiles {
  std::vector<std::filesystem::path> files;
  std::map<std::string, std::int64_t> ignored;  ///< what was found beside them, by reason
};

/// Finds the files of a source: paths in the given order, what a folder or a glob holds sorted by name, each file once.
/// In folders, and where a glob does not say so, names that start with a dot are left out; those, files of other kinds
/// and repetitions are counted in `ignored`. Symbolic links are followed. Throws ConfigError that lists every path
/// which is not there, matches nothing, or is a file of another kind; DataError for a folder that cannot be read.
///
/// Folders that hold a model or the records of a run are left out of folders and globs, so that what this program
/// writes into a folder of text is not read as text.
SourceFiles find_files(const TextSource& source);

/// Throws ConfigError if `output`, a file or folder that `option` names, is or would be read as text of the source, or
/// one of `records`, the files that will be written into such a folder.
void check_not_read(const TextSource& source, const std::filesystem::path& output, const std::string& option,
                    const std::vector<std::string>& records = {});

/// Reads the documents of a source one by one; one file is open at a time.
class DocumentReader {
 public:
  /// Finds the files; throws as find_files does.
  explicit DocumentReader(const TextSource& source);
  ~DocumentReader();
  DocumentReader(DocumentReader&&) noexcept;
  DocumentReader& operator=(DocumentReader&&) noexcept;

  /// The next document: valid UTF-8, not empty. False after the last one. Throws DataError for a file that cannot be
  /// read, is cut short or damaged, and for a bad record where the source does not skip those.
  bool next(std::string& text);
  /// Of what was read so far; the tokens are 0. Empty texts and blank lines are always skipped, and counted.
  const SourceCounts& counts() const;
  /// "file:line" of the document that next() gave last ("file" for a whole file).
  std::string position() const;
  /// Bytes of the files that were read, and of all files (on disk, so compressed where they are): for progress.
  std::int64_t file_bytes_read() const;
  std::int64_t file_bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Hash of everything that decides which documents a source gives: the bytes of its files in their order, their kinds,
/// and the options. Not of names and places. Reads all files.
std::string source_fingerprint(const TextSource& source);

}  // namespace adept::data
