// Tokens that a user adds to a tokenizer: reading their list, and writing them into tokenizer.json.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "adept/data/tokenizer/tokenizer.h"

namespace adept::data {

/// Reads a list of tokens to add: one per line, UTF-8. Spaces at the start or end of a line belong to the token; the
/// log says so. Throws DataError with all problems and their lines: a line that is empty or not UTF-8, a token that is
/// listed twice, that `tokenizer` has as one token, or that it could never find in a text.
std::vector<std::string> read_new_tokens(const std::filesystem::path& file, const Tokenizer& tokenizer);

/// Text of the tokenizer.json of `model_dir` with `tokens` added as transformers' `tokenizer.add_tokens()` adds
/// strings: each gets the next free id, and is neither special nor restricted to whole words. Tokens that other files
/// of the folder add to `tokenizer`, which is that of the folder, are listed too: they keep their ids. Everything but
/// the list, and white space behind it, keeps its bytes.
std::string tokenizer_json_with(const std::filesystem::path& model_dir, const Tokenizer& tokenizer,
                                std::span<const std::string> tokens);

}  // namespace adept::data
