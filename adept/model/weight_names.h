// The names of tensors in a model's files, and what other names say about how it was saved.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace adept::model {

/// The two tensors that a tied model stores once, and some files twice.
inline constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight", kHeadName = "lm_head.weight";

/// One sentence where most of `unexpected` are names of `missing` with something added or left out, as wrappers and
/// adapters do ("_orig_mod.", "base_model.model.", ".base_layer"): what it is, an example, and what to do. Otherwise
/// empty. Looks at the first few hundred names only.
std::string explain_names(const std::vector<std::string>& missing, const std::vector<std::string>& unexpected);

}  // namespace adept::model
