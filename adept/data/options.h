// Options for reading text.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "adept/core/choices.h"

namespace adept::data {

/// What counts as one document in a text file.
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

/// What is trained on (of held-out text: measured) in the conversations of a source.
enum class TrainOn {
  kAll,        ///< every token
  kAssistant,  ///< the answers: messages of the role assistant; other tokens are context
};

/// How the documents of a training source become sequences (packing.h).
enum class Packing {
  kConcat,   ///< joined and cut every seq_len tokens: no padding, documents are split anywhere
  kBestFit,  ///< each sequence holds whole documents as far as they fit: some padding
};

inline constexpr char kDefaultTextField[] = "text";
/// Default of data.document_mask: documents packed into one sequence do not attend to each other.
inline constexpr bool kDocumentMask = true;

/// A named set of documents.
struct TextSource {
  std::string name{};
  /// Files, folders (with all below), globs (* ? [a-z] and ** for any folders), @FILE (a list of paths, one per line),
  /// "-" (standard input).
  std::vector<std::string> paths{};
  std::optional<std::string> format{};  ///< of every file, one of format_names(); unset: by the extension
  std::optional<std::string> split{};   ///< which files of folders and globs are read (splits.h); unset: all
  // What a record becomes; at most one is set.
  std::optional<std::string> text_field{};      ///< "text" or "meta.text"; unset: kDefaultTextField. Records without it
                                                ///< may be multiple-choice questions (multiple_choice.h)
  std::optional<std::string> text_template{};   ///< "{question}\n{answer}" (text_template.h)
  std::optional<std::string> messages_field{};  ///< a conversation, rendered by the model's chat template
  TrainOn train_on = TrainOn::kAll;             ///< of conversations
  std::optional<TxtRecord> txt_record{};        ///< of text files; unset: kFile
  BadRecord on_bad_record = BadRecord::kFail;
};

/// The names that `format` may have, of the table in readers/formats.cpp.
std::vector<std::string> format_names();

/// Options of a source that are wrong or contradict each other.
struct SourceProblem {
  std::string key;   ///< the name of the option in the configuration: "template"
  std::string text;  ///< "found X; expected Y"
};
std::vector<SourceProblem> option_problems(const TextSource& source);

}  // namespace adept::data

namespace adept {

template <>
inline constexpr std::array kChoices<data::TxtRecord> = {Choice{data::TxtRecord::kFile, "file"},
                                                         Choice{data::TxtRecord::kLine, "line"},
                                                         Choice{data::TxtRecord::kParagraph, "paragraph"}};
template <>
inline constexpr std::array kChoices<data::TrainOn> = {Choice{data::TrainOn::kAll, "all"},
                                                       Choice{data::TrainOn::kAssistant, "assistant"}};
template <>
inline constexpr std::array kChoices<data::BadRecord> = {Choice{data::BadRecord::kFail, "fail"},
                                                         Choice{data::BadRecord::kSkip, "skip"}};
template <>
inline constexpr std::array kChoices<data::Packing> = {Choice{data::Packing::kConcat, "concat"},
                                                       Choice{data::Packing::kBestFit, "best_fit"}};

}  // namespace adept
