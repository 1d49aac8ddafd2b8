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
  virtual void process(std::vector<std::int32_t>& ids, bool add_special_tokens) const = 0;
  /// Appends every id that may be added.
  virtual void collect_ids(std::vector<std::int32_t>& ids) const = 0;
};

/// ByteLevel (which concerns offsets only), TemplateProcessing, BertProcessing, RobertaProcessing, Sequence.
/// Throws DataError for anything else.
std::unique_ptr<PostProcessor> make_post_processor(const JsonField& field);

}  // namespace adept::data::tok
