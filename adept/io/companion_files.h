// The files that go with a model's weights: tokenizer, processors, templates, license, and any other files in the
// folder.
#pragma once

#include <filesystem>

namespace adept::io {

/// Record of the tokens that were added to a model's tokenizer.json. It goes wherever that goes.
inline constexpr char kAddedTokensRecord[] = "adept_added_tokens.json";

/// Copies from a model's folder to another, byte for byte, every file but
///   * weights and their indexes, of any framework, and an adapter beside them (adapter_config.json);
///   * config.json, the model's card (README.md) and adept's records (adept_*.json, except kAddedTokensRecord),
///     which a new model has of its own;
///   * hidden files, logs of training (*.tfevents.*) and adept's tokens (*.tokens).
/// A folder inside (additional_chat_templates/) is copied the same way, unless it is another model (it contains weights
/// or a config.json) or contains `to_dir`. Skipped, and logged once, are files of more than 100 MB (unless named
/// tokenizer), folders of more than 100 MB, 1000 files or a depth of 4, special files, and links to folders. Links to
/// files are followed, because the Hub cache uses them. Throws DataError.
void copy_companion_files(const std::filesystem::path& from_dir, const std::filesystem::path& to_dir);

}  // namespace adept::io
