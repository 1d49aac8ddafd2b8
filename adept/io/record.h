// Records: JSON files that adept writes and reads back. A checksum over the content detects damage.
//
// JSON has no non-finite numbers: they are written as null.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "adept/core/json.h"

namespace adept::io {

/// The last field of a record: the hash of everything else in it.
inline constexpr char kChecksum[] = "checksum";

/// The text of a record; its content is an object without that field.
std::string record_text(const Json& content);

/// Writes a record atomically. Throws DataError.
void write_record(const std::filesystem::path& path, const Json& content);

/// How to handle a record without a checksum.
enum class NoChecksum {
  kDamaged,   ///< damaged: only adept writes such files
  kAccepted,  ///< valid: users may write or edit such files
};

/// The content of a record. Throws DataError with the file name if it is not a JSON object or does not match its
/// checksum.
Json read_record(const std::filesystem::path& path, NoChecksum no_checksum = NoChecksum::kDamaged);

/// A number that may have been non-finite: `if_null` if it is null. Throws DataError, "KEY is FOUND; expected ...".
double number_or(const Json& object, const std::string& key, double if_null);

/// Differences between an object of an earlier session and the current one, one line each: "train.seed: was 1, now 2",
/// or "model.weights: has changed" for hashes.
std::vector<std::string> differences(const Json& before, const Json& now);

}  // namespace adept::io
