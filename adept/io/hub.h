// Finds a model: a directory, or a Hugging Face Hub id in the local cache. Does not use the network.
#pragma once

#include <filesystem>
#include <string>

namespace adept::io {

/// The directory of a model: an existing directory unchanged; else `org/name` or `org/name@revision` (a branch, tag or
/// commit; default main) in the local cache, laid out as huggingface_hub does:
/// https://huggingface.co/docs/huggingface_hub/guides/manage-cache
///
/// The cache is $HF_HUB_CACHE, else $HUGGINGFACE_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub,
/// else ~/.cache/huggingface/hub; ~, ~user, $NAME and ${NAME} in a variable are expanded, as huggingface_hub does.
/// Throws DataError; if the model is missing, the message gives the command to download it.
std::filesystem::path resolve_model(const std::string& directory_or_hub_id);

}  // namespace adept::io
