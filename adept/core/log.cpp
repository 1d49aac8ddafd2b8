#include "adept/core/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace adept {
namespace {

// Values of $ADEPT_LOG.
constexpr std::pair<std::string_view, spdlog::level::level_enum> kLevels[] = {{"info", spdlog::level::info},
                                                                              {"warn", spdlog::level::warn},
                                                                              {"error", spdlog::level::err},
                                                                              {"off", spdlog::level::off}};

int g_rank = 0;

class LevelPrefix : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    std::string prefix = rank_prefix();
    if (message.level == spdlog::level::warn) prefix += "warning: ";
    if (message.level >= spdlog::level::err) prefix += "error: ";
    out.append(prefix.data(), prefix.data() + prefix.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<LevelPrefix>(); }
};

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

}  // namespace

void init_logging() {
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  // The sink cannot detect a terminal itself, because run_program replaces the stream (core/standard_streams.h).
  if (::isatty(STDERR_FILENO) == 1 && spdlog::details::os::is_color_terminal())
    sink->set_color_mode(spdlog::color_mode::always);
  auto logger = std::make_shared<spdlog::logger>("adept", std::move(sink));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<LevelPrefix>('*').set_pattern("%^%*%$%v");
  logger->set_formatter(std::move(formatter));
  const char* setting = std::getenv("ADEPT_LOG");
  const std::string_view name = setting != nullptr ? setting : "info";
  const auto found = std::ranges::find(kLevels, name, &std::pair<std::string_view, spdlog::level::level_enum>::first);
  const bool is_known = found != std::end(kLevels);
  logger->set_level(is_known ? found->second : spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  if (!is_known) log_warning("ADEPT_LOG is \"{}\"; expected info, warn, error or off. Using info.", name);
}

void set_quiet() { spdlog::default_logger()->set_level(std::max(spdlog::get_level(), spdlog::level::warn)); }

void set_rank(int rank) {
  g_rank = rank;
  set_quiet();
}

std::string rank_prefix() { return g_rank == 0 ? "" : fmt::format("[rank {}] ", g_rank); }

bool logs(LogLevel level) { return spdlog::should_log(spdlog_level(level)); }

void log_message(LogLevel level, const std::string& message) {
  spdlog::log(spdlog_level(level), spdlog::string_view_t(message));
}

void log_table(const std::string& table) {
  log_message(LogLevel::kInfo, table.ends_with('\n') ? table.substr(0, table.size() - 1) : table);
}

void log_once(LogLevel level, const std::string& message) {
  if (g_rank != 0) return;
  static std::mutex mutex;
  static std::set<std::string> logged;
  {
    const std::lock_guard lock(mutex);
    if (!logged.insert(message).second) return;
  }
  log_message(level, message);
}

}  // namespace adept
