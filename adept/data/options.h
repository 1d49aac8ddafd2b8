// Options for reading text.
#pragma once

#include <string>
#include <vector>

#include "adept/core/choices.h"

namespace adept::data {

/// What counts as one document in a .txt file.
enum class TxtRecord {
  kFile,       ///< the whole file, byte for byte (without a byte order mark)
  kLine,       ///< each line, without its end
  kParagraph,  ///< lines up to the next blank line, joined by "\n"; lines of spaces and tabs are blank
};

/// How to handle invalid records: broken JSON, missing field, not a string, not UTF-8.
enum class BadRecord {
  kFail,  ///< DataError with file and line
  kSkip,  ///< counted by reason
};

/// A named set of documents.
struct TextSource {
  std::string name{};
  std::vector<std::string> paths{};  ///< files, folders (with all below), globs (* ? [a-z] and ** for any folders)
  /// Field of the objects in .jsonl files. Objects without it may be multiple-choice questions (multiple_choice.h).
  std::string text_field = "text";
  TxtRecord txt_record = TxtRecord::kFile;
  BadRecord on_bad_record = BadRecord::kFail;
};

}  // namespace adept::data

namespace adept {

template <>
inline constexpr std::array kChoices<data::TxtRecord> = {Choice{data::TxtRecord::kFile, "file"},
                                                         Choice{data::TxtRecord::kLine, "line"},
                                                         Choice{data::TxtRecord::kParagraph, "paragraph"}};
template <>
inline constexpr std::array kChoices<data::BadRecord> = {Choice{data::BadRecord::kFail, "fail"},
                                                         Choice{data::BadRecord::kSkip, "skip"}};

}  // namespace adept
