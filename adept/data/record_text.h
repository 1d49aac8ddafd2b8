// What a record becomes: a field, a template of several fields, a multiple-choice question, or the messages of a
// conversation (conversations.h). Internal to adept::data.
#pragma once

#include <optional>
#include <string>

#include "adept/data/readers/reader.h"
#include "adept/data/text_template.h"

namespace adept::data {

/// Turns records into documents by the options of a source, for every format.
class RecordText {
 public:
  /// The options must be good (option_problems).
  explicit RecordText(const TextSource& source);

  /// What a reader must provide.
  const WantedFields& wanted() const { return wanted_; }
  /// The document of a record, which may lose its values; of a conversation its messages, as JSON. False, with `fault`
  /// set, if it has none.
  bool convert(Record& record, std::string& text, Fault& fault) const;

 private:
  bool has_all(const Record& record, Fault& fault) const;
  bool convert_fallback(const Record& record, std::string& text, Fault& fault) const;

  std::optional<TextTemplate> template_{};  // else the one field is the text, or the messages
  WantedFields wanted_{};
};

}  // namespace adept::data
