// The files that go with a model's weights: tokenizer, processors, templates, licence, whatever the folder holds.
#pragma once

#include <filesystem>

namespace adept::io {

/// Copies from a model's folder to another, byte for byte, every file but
///   * weights and their indexes, of any framework, and an adapter beside them (adapter_config.json);
///   * config.json, the model's card (README.md) and adept's records (adept_*.json), which a new model has of its own;
///   * hidden files, logs of training (*.tfevents.*) and adept's tokens (*.tokens).
/// A folder inside (additional_chat_templates/) is copied the same way, unless it is another model, that is, holds
/// weights or a config.json; or is where `to_dir` lies. Left out, and named once, are files of more than 100 MB (unless
/// they are called tokenizer), folders of more than 100 MB, 1000 files or 4 folders' depth, what is no regular file,
/// and links to folders. Links to files are followed, as the hub's cache has them. Throws DataError.
void copy_companion_files(const std::filesystem::path& from_dir, const std::filesystem::path& to_dir);

}  // namespace adept::io
