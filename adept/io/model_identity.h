// The identity of a model. Runs, scores, expansions and cached results refer to it.
#pragma once

#include <string>

#include "adept/core/json.h"
#include "adept/io/weight_files.h"

namespace adept::io {

/// Content hashes of the parts of a model directory that decide what the model computes.
struct ModelIdentity {
  std::string weights;    ///< WeightFiles::hash()
  std::string config;     ///< of config.json
  std::string tokenizer;  ///< of the files that determine token ids

  bool operator==(const ModelIdentity&) const = default;
};

/// Of the directory of `files`; see WeightFiles::hash(). Throws DataError.
ModelIdentity model_identity(const WeightFiles& files);

/// {"weights": ..., "config.json": ..., "tokenizer": ...}
Json to_json(const ModelIdentity& identity);
/// Throws DataError, "PREFIXweights is ...", for anything else.
ModelIdentity model_identity_from_json(const Json& json, const std::string& prefix);

/// Names the parts in which two models differ, such as "weights and config.json"; empty if they are equal.
std::string differing_parts(const ModelIdentity& a, const ModelIdentity& b);

}  // namespace adept::io
