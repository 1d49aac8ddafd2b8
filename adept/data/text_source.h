// Text input: files, folders, globs and lists of them in any format of readers/, read as one document after another.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adept/data/chat_template.h"
#include "adept/data/options.h"
#include "adept/data/source_counts.h"

namespace adept::data {

/// The files of a source, in the order in which they are read.
struct SourceFiles {
  std::vector<std::filesystem::path> files;
  std::map<std::string, std::int64_t> ignored;  ///< other entries found, by reason
  bool are_tokens = false;                      ///< of another program, or of a store (interchange/token_files.h)
  /// For the user: a glob that matches files of several splits while the source names none, and shards that are missing
  /// in a folder or among the matches of a glob.
  std::vector<std::string> warnings{};
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

/// A document of a source.
struct Document {
  std::string text{};               ///< UTF-8, not empty
  std::vector<TextSpan> answers{};  ///< of a conversation with train_on: assistant, what is trained on; ascending.
                                    ///< Empty: all of the text
};

/// Where a DocumentReader is after a document. Cheap to copy.
class ReaderPlace {
 public:
  /// For DocumentReader::go_to() in another process: the index of the file, the documents of it that were returned, and
  /// what was known when it was opened.
  Json to_json() const;

 private:
  friend class DocumentReader;
  struct File;
  std::shared_ptr<const File> file_;
  std::int64_t documents_ = 0;
};

/// Reads the documents of a source one by one; one file is open at a time.
class DocumentReader {
 public:
  /// Finds the files; throws like find_files. `chat` renders the conversations of a source with a messages_field, which
  /// requires it, and must outlive the reader.
  explicit DocumentReader(const TextSource& source, const ChatTemplate* chat = nullptr);
  ~DocumentReader();
  DocumentReader(DocumentReader&&) noexcept;
  DocumentReader& operator=(DocumentReader&&) noexcept;

  /// The next document. False after the last one. Throws DataError for a file that cannot be
  /// read, is cut short or damaged, or has changed since this reader was made; and for an invalid record unless the
  /// source skips these.
  bool next(Document& document);
  /// The same where only the text is needed.
  bool next(std::string& text);
  /// After the document that next() returned last.
  ReaderPlace place() const;
  /// Continues after a place of an earlier reader of the same files: skips the files before it, and reads the documents
  /// before it in the open one. Counts and skipped records are those of the earlier reader. Throws DataError if `place`
  /// is not of these files.
  void go_to(const Json& place);
  /// Hash of the bytes of the files that were read to their end, as content_hash() after the last one. Call
  /// hash_contents() first: each file is then read again when it ends, while it is still in the system's cache.
  void hash_contents();
  const std::string& hash_of_contents() const;

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

/// Hash that changes if the documents of a source may have changed: the formats, sizes and times of modification of its
/// files in order, samples of their bytes (all of a small file, or of a stream), and the options, but not names and
/// paths. Takes a few reads per file.
std::string source_fingerprint(const TextSource& source);

/// Hash of the bytes of all files in order.
std::string content_hash(const TextSource& source);
/// The same step by step: `hash` is that of the files before, at first "".
std::string extend_content_hash(const std::string& hash, const std::filesystem::path& file);

}  // namespace adept::data
