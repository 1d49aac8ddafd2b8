// Records: the JSON files that adept writes for itself and reads again. A checksum over the content tells a damaged
// one.
//
// A number that is not finite has no place in JSON: it is written as null.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "adept/core/json.h"

namespace adept::io {

/// The last field of a record: the hash of everything else in it.
inline constexpr char kChecksum[] = "checksum";

/// The text of a record, whose content is an object without that field.
std::string record_text(const Json& content);

/// Writes a record atomically. Throws DataError.
void write_record(const std::filesystem::path& path, const Json& content);

/// What a record without a checksum is.
enum class NoChecksum {
  kDamaged,   ///< nobody but adept writes such files
  kAccepted,  ///< the work of a user, who may write or edit such files
};

/// The content of a record. Throws DataError, which names the file, where it is no JSON object or not what was written.
Json read_record(const std::filesystem::path& path, NoChecksum no_checksum = NoChecksum::kDamaged);

/// A number that may not have been finite: `if_null` where it is null. Throws DataError, "KEY is FOUND; expected ...".
double number_or(const Json& object, const std::string& key, double if_null);

/// What differs between an object of an earlier session and that of now: "train.seed: was 1, now 2", one line each;
/// "model.weights: has changed" where the values are hashes.
std::vector<std::string> differences(const Json& before, const Json& now);

}  // namespace adept::io
