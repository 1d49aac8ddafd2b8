#include "adept/core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

#include "adept/core/log.h"

namespace adept {
namespace {

constexpr double kLiveInterval = 0.2;  // seconds
constexpr double kLongest = 1e12;      // seconds

bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

/// A wrapped line cannot be overwritten.
std::string cut_to_terminal(const std::string& line) {
  winsize size = {};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return line;
  return line.substr(0, size.ws_col - 1U);
}

}  // namespace

double detail::seconds_left(double elapsed, std::int64_t start, std::int64_t done, std::int64_t total) {
  return elapsed * static_cast<double>(total - done) / static_cast<double>(done - start);
}

std::string format_duration(double seconds) {
  // NaN and values out of range become the nearest limit.
  const auto total = seconds > 0 ? static_cast<std::int64_t>(std::llround(std::min(seconds, kLongest))) : 0;
  const std::int64_t h = total / 3600, m = total / 60 % 60, s = total % 60;
  return h > 0 ? fmt::format("{}:{:02}:{:02}", h, m, s) : fmt::format("{}:{:02}", m, s);
}

std::string format_count(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3)
    digits.insert(static_cast<std::size_t>(i), ",");
  return digits;
}

std::string format_bytes(std::int64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.95 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

Progress::Progress(std::string stage, std::int64_t total, Options options)
    : stage_(std::move(stage)),
      total_(total),
      options_(std::move(options)),
      live_(stderr_is_terminal()),
      done_(options_.start),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (live_ && printed_ && !finished_) std::fputc('\n', stderr);
}

Progress& Progress::silent() {
  static Progress progress("", 0, Options{.quiet = true});
  return progress;
}

double Progress::elapsed() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

bool Progress::is_hidden() const { return options_.quiet || !logs(LogLevel::kInfo); }

void Progress::update(std::int64_t done, std::int64_t work, const std::string& note) {
  if (is_hidden()) return;
  done_ = done;
  work_ = work;
  note_ = note;
  if (!live_ && total_ > 0 && done_ >= total_) return;  // the last line reports it
  const double now = elapsed();
  if (now - last_print_ < (live_ ? kLiveInterval : options_.plain_interval)) return;
  last_print_ = now;
  print(false);
}

void Progress::finish(const std::string& note) {
  if (is_hidden() || finished_) return;
  finished_ = true;
  if (options_.is_passing) {
    if (live_ && printed_) fmt::print(stderr, "\r\x1b[K");
    return;
  }
  if (total_ > 0) done_ = total_;
  if (!note.empty()) note_ = note;
  print(true);
}

std::string Progress::count() const {
  const bool bytes = options_.counts == "bytes", few = std::max(done_, total_) < 10'000'000;
  const auto shown = [&](std::int64_t value) {
    return format_count(!bytes ? value : std::llround(static_cast<double>(value) / (few ? 1e3 : 1e6)));
  };
  const std::string counts = !bytes ? options_.counts : few ? "kB" : "MB";
  return (total_ > 0 ? shown(done_) + "/" + shown(total_) : shown(done_)) + (counts.empty() ? "" : " " + counts);
}

void Progress::print(bool last) {
  const double seconds = elapsed();
  std::string line = fmt::format("{:<10} ", stage_);
  if (!options_.source.empty()) line += options_.source + "  ";
  line += count();
  if (options_.counts == "bytes" && done_ > options_.start && seconds > 0)
    line += fmt::format("  {}/s", format_bytes(std::llround(static_cast<double>(done_ - options_.start) / seconds)));
  if (!options_.rate_unit.empty() && work_ > 0 && seconds > 0)
    line += fmt::format("  {} {}/s", format_count(static_cast<std::int64_t>(static_cast<double>(work_) / seconds)),
                        options_.rate_unit);
  if (!note_.empty()) line += "  " + note_;
  if (last)
    line += fmt::format("  in {}", format_duration(seconds));
  else if (total_ > 0 && done_ > options_.start)
    line += fmt::format("  {} left", format_duration(detail::seconds_left(seconds, options_.start, done_, total_)));
  if (live_)
    fmt::print(stderr, "\r{}\x1b[K{}", last ? line : cut_to_terminal(line), last ? "\n" : "");
  else
    fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
  printed_ = true;
}

}  // namespace adept
