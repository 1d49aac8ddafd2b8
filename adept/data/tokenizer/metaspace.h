// Options of Metaspace, which is both a pre-tokenizer and a decoder.
#pragma once

#include "adept/data/tokenizer/json_field.h"

namespace adept::data::tok {

enum class PrependScheme { kAlways, kFirst, kNever };

struct MetaspaceOptions {
  char32_t replacement = 0x2581;  ///< represents a space
  PrependScheme scheme = PrependScheme::kAlways;
  bool split = true;
};

/// Throws DataError.
MetaspaceOptions read_metaspace(const JsonField& field);

}  // namespace adept::data::tok
