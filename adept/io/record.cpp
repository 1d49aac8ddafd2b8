#include "adept/io/record.h"

#include <algorithm>

#include "adept/core/error.h"
#include "adept/core/hash.h"
#include "adept/io/atomic_file.h"

namespace adept::io {
namespace {

std::string text_of(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

// "/train/learning_rate" -> "train.learning_rate", as in a configuration.
std::string dotted(std::string pointer) {
  std::replace(pointer.begin(), pointer.end(), '/', '.');
  return pointer.empty() ? pointer : pointer.substr(1);
}

// The digits of a hash mean nothing to a reader.
bool is_hash(const Json& value) {
  return value.is_string() && value.get_ref<const std::string&>().starts_with("xxh3:");
}

}  // namespace

std::string record_text(const Json& content) {
  ADEPT_CHECK(content.is_object() && !content.contains(kChecksum), "the content of a record is an object");
  Json record = content;
  record[kChecksum] = hash_of(text_of(content));
  return text_of(record, 2) + "\n";
}

void write_record(const std::filesystem::path& path, const Json& content) {
  write_file_atomically(path, record_text(content));
}

Json read_record(const std::filesystem::path& path, NoChecksum no_checksum) {
  Json record = read_json(path);
  if (!record.is_object()) throw DataError("{}: is damaged: it does not contain a JSON object.", path.string());
  const auto found = record.find(kChecksum);
  if (found == record.end()) {
    if (no_checksum == NoChecksum::kAccepted) return record;
    throw DataError("{}: is damaged: it has no checksum.", path.string());
  }
  const Json checksum = *found;
  record.erase(kChecksum);
  if (checksum == hash_of(text_of(record))) return record;
  if (no_checksum == NoChecksum::kDamaged)
    throw DataError("{}: is damaged: its content does not match its checksum.", path.string());
  throw DataError(
      "{}: is damaged or was edited: its content does not match its checksum. Create it again. If you edited it on "
      "purpose, remove its field \"{}\" to use it as it is.",
      path.string(), kChecksum);
}

double number_or(const Json& object, const std::string& key, double if_null) {
  if (!object.is_object() || !object.contains(key)) throw DataError("{} is missing", key);
  const Json& value = object.at(key);
  if (value.is_null()) return if_null;
  if (!value.is_number()) throw DataError("{} is {}; expected a number or null", key, value.type_name());
  return value.get<double>();
}

std::vector<std::string> differences(const Json& before, const Json& now) {
  std::vector<std::string> lines;
  const Json old_values = before.flatten(), new_values = now.flatten();
  for (const auto& [key, value] : new_values.items())
    if (old_values.contains(key) && is_hash(value) && is_hash(old_values.at(key))) {
      if (old_values.at(key) != value) lines.push_back(dotted(key) + ": has changed");
    } else if (!old_values.contains(key) || old_values.at(key) != value) {
      lines.push_back(fmt::format("{}: was {}, now {}", dotted(key),
                                  old_values.contains(key) ? old_values.at(key).dump() : "absent", value.dump()));
    }
  for (const auto& [key, value] : old_values.items())
    if (!new_values.contains(key)) lines.push_back(fmt::format("{}: was {}, now absent", dotted(key), value.dump()));
  return lines;
}

}  // namespace adept::io
