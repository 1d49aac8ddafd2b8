// Post-processors of tokenizer.json: what is added around the ids of a text.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "adept/data/tokenizer/json_field.h"

namespace adept::data::tok {

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  /// Puts what it adds around a text, and around what `front` and `back` hold already, into them.
  virtual void surround(std::vector<std::int32_t>& front, std::vector<std::int32_t>& back) const = 0;
};

/// ByteLevel (which concerns offsets only), TemplateProcessing, BertProcessing, RobertaProcessing, Sequence.
/// Throws DataError for anything else.
std::unique_ptr<PostProcessor> make_post_processor(const JsonField& field);

}  // namespace adept::data::tok
