// Sets of code points as PCRE2 character classes.
#pragma once

#include <string>

#include "adept/data/tokenizer/unicode.h"

namespace adept::data::tok {

/// A PCRE2 class that matches exactly the code points of `set`, whatever version of Unicode PCRE2 was built with: uses
/// PCRE2's own \p{..} where they are within the set (they are fast), and ranges for the rest.
std::string to_pcre2_class(const CodePointSet& set);

}  // namespace adept::data::tok
