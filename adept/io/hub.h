// Where a model is: a directory, or a Hugging Face hub id in the local cache. Nothing here uses the network.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace adept::io {

/// The directory of a model: an existing directory as it is; else `org/name` or `org/name@revision` (a branch, tag or
/// commit; default main) in the local cache, laid out as huggingface_hub does:
/// https://huggingface.co/docs/huggingface_hub/guides/manage-cache
///
/// The cache is $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
/// Throws DataError; a miss says which command downloads the model.
std::filesystem::path resolve_model(const std::string& directory_or_hub_id);

/// The files that go with a model's weights unchanged: tokenizer, chat template, generation_config.json.
const std::vector<std::string_view>& tokenizer_file_names();

/// Copies those of tokenizer_file_names() that are in `from_dir`, byte for byte. Throws DataError.
void copy_tokenizer_files(const std::filesystem::path& from_dir, const std::filesystem::path& to_dir);

}  // namespace adept::io
