#include "adept/io/text_quote.h"

#include <nlohmann/json.hpp>

namespace adept::io {

std::string quote(std::string_view text) {
  constexpr std::size_t kMaxBytes = 120;
  std::string part(text.substr(0, kMaxBytes));
  if (text.size() > kMaxBytes) part += "...";
  return nlohmann::json(part).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace adept::io
