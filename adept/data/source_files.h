// Which files a source of text consists of. Internal to adept::data.
#pragma once

#include <filesystem>

#include "adept/data/readers/formats.h"
#include "adept/data/text_source.h"

namespace adept::data {

/// The format of a file of the source: the one it names, else by the extension, or by the first bytes of a stream.
const Format& format_in(const TextSource& source, const std::filesystem::path& file);

}  // namespace adept::data
