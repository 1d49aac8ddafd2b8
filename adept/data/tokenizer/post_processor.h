// Post-processors of tokenizer.json: they add ids around those of a text.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "adept/data/tokenizer/json_field.h"

namespace adept::data::tok {

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  /// Adds its ids outside those already in `front` and `back`.
  virtual void surround(std::vector<std::int32_t>& front, std::vector<std::int32_t>& back) const = 0;
};

/// ByteLevel (which concerns offsets only), TemplateProcessing, BertProcessing, RobertaProcessing, Sequence.
/// Throws DataError for anything else.
std::unique_ptr<PostProcessor> make_post_processor(const JsonField& field);

}  // namespace adept::data::tok
