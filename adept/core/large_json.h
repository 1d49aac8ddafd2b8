// JSON documents with more keys in one object than read_json takes (json.h).
#pragma once

#include "adept/core/json.h"

namespace adept {

/// As read_json, with at most `max_keys` in one object: for documents whose keys are iterated, not looked up.
Json read_large_json(const std::filesystem::path& path, std::size_t max_keys);

}  // namespace adept
