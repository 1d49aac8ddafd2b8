#include "adept/core/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

namespace adept {
namespace {

class LevelPrefix : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    std::string_view prefix;
    if (message.level == spdlog::level::warn) prefix = "warning: ";
    if (message.level >= spdlog::level::err) prefix = "error: ";
    if (message.level <= spdlog::level::debug) prefix = "debug: ";
    out.append(prefix.data(), prefix.data() + prefix.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<LevelPrefix>(); }
};

}  // namespace

void init_logging() {
  spdlog::drop("adept");  // a second call starts over
  auto logger = spdlog::stderr_color_mt("adept");
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<LevelPrefix>('*').set_pattern("%^%*%$%v");
  logger->set_formatter(std::move(formatter));
  const char* setting = std::getenv("ADEPT_LOG");
  const std::string name = setting != nullptr ? setting : "info";
  const auto level = spdlog::level::from_str(name);
  const bool is_known = level != spdlog::level::off || name == "off";  // from_str has no other sign of a wrong name
  logger->set_level(is_known ? level : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  if (!is_known) spdlog::warn("ADEPT_LOG is \"{}\"; expected debug, info, warn, error or off. Using info.", name);
}

}  // namespace adept
