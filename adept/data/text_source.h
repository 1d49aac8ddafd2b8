// Text input: files, folders, globs and lists of them in any format of readers/, read as one document after another.
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

class ChatTemplate;

/// The files of a source, in the order in which they are read.
struct SourceFiles {
  std::vector<std::filesystem::path> files;
  std::map<std::string, std::int64_t> ignored;  ///< other entries found, by reason
};

/// Finds the files of a source: paths in the given order, the contents of folders and globs sorted by name, each file
/// once. Names that start with a dot are skipped in folders, and in globs that do not spell the dot; these, files of
/// other kinds and repetitions are counted in `ignored`. Symbolic links are followed. Throws ConfigError that lists
/// every path that does not exist, matches nothing, is a file of another kind, or is a folder of several splits while
/// the source names none, or has no fields where the source names some; DataError for a folder that cannot be read.
///
/// Folders and globs skip subfolders with a model or the records of a run, so files that adept writes into a folder of
/// text are not read as text; and a README and the descriptions that datasets writes beside its data.
SourceFiles find_files(const TextSource& source);

/// Throws ConfigError if `output` (a file or folder given by `option`), or one of the files `records` that will be
/// written into such a folder, is an input of the source or would become one.
void check_not_read(const TextSource& source, const std::filesystem::path& output, const std::string& option,
                    const std::vector<std::string>& records = {});

/// A bad record that was skipped.
struct SkippedRecord {
  std::string position;  ///< "file:line"
  std::string reason;
  std::string found;
};
inline constexpr std::size_t kMaxListedSkips = 100;

/// Reads the documents of a source one by one; one file is open at a time.
class DocumentReader {
 public:
  /// Finds the files; throws like find_files. `chat` renders the conversations of a source with a messages_field, which
  /// requires it, and must outlive the reader.
  explicit DocumentReader(const TextSource& source, const ChatTemplate* chat = nullptr);
  ~DocumentReader();
  DocumentReader(DocumentReader&&) noexcept;
  DocumentReader& operator=(DocumentReader&&) noexcept;

  /// The next document: valid UTF-8, not empty. False after the last one. Throws DataError for a file that cannot be
  /// read, is cut short or damaged, or has changed since this reader was made; and for an invalid record unless the
  /// source skips these.
  bool next(std::string& text);
  /// Counts of everything read so far; tokens are 0. Empty texts and blank lines are always skipped and counted.
  const SourceCounts& counts() const;
  /// The first kMaxListedSkips records that were skipped, without blank lines.
  const std::vector<SkippedRecord>& skipped() const;
  /// "file:line" of the document that next() returned last ("file" for a whole file).
  std::string position() const;
  /// Bytes of the files read so far, and of all files (on disk, before decompression), for progress.
  std::int64_t file_bytes_read() const;
  std::int64_t file_bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Hash of everything that determines the documents of a source: the bytes of its files in order, their formats, and
/// the options, but not names and paths. Reads all files.
std::string source_fingerprint(const TextSource& source);

}  // namespace adept::data
