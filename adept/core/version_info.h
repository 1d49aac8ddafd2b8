// What this build was made of. The values are defined in a generated file (cmake/Version.cmake), so that a commit
// compiles that file alone.
#pragma once

#include <string_view>

namespace adept {

extern const std::string_view kVersion;       ///< "0.1.0"
extern const std::string_view kCommit;        ///< git describe; "unknown" outside a repository
extern const std::string_view kTorchVersion;  ///< as torch.__version__
extern const std::string_view kCompiler;      ///< "GNU 12.2.0"

}  // namespace adept
