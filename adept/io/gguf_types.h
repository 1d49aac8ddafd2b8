// The types of the GGUF format, including unsupported ones (for messages).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "adept/io/gguf.h"

namespace adept::io {

/// The supported type of this number in the file; nothing for any other.
std::optional<GgmlType> supported_ggml_type(std::uint32_t number);
/// "IQ4_XS", or "type 99" for a number that ggml does not have.
std::string ggml_name_of_number(std::uint32_t number);
/// "F32, F16, ...": the names of all supported types.
std::string supported_ggml_names();

/// Bytes of a scalar; 0 for strings, arrays and unknown types.
std::size_t gguf_scalar_size(GgufValueType type);
/// "a 32-bit unsigned integer", for messages.
std::string_view gguf_type_name(GgufValueType type);

}  // namespace adept::io
