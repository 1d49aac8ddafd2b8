// What the names in a model's files say about how it was saved, for messages.
#pragma once

#include <string>
#include <vector>

namespace adept::model {

/// One sentence where most of `unexpected` are names of `missing` with something added or left out, as wrappers and
/// adapters do ("_orig_mod.", "base_model.model.", ".base_layer"): what it is, an example, and what to do. Otherwise
/// empty. Looks at the first few hundred names only.
std::string explain_names(const std::vector<std::string>& missing, const std::vector<std::string>& unexpected);

}  // namespace adept::model
