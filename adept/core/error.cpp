#include "adept/core/error.h"

namespace adept {

void fail_check(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(
      fmt::format("internal error at {}:{}: {} ({}). Please report this.", file, line, message, condition));
}

}  // namespace adept
