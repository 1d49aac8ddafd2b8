// One line per long stage: live on a terminal, a plain line every minute when piped.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace adept {

/// Formats seconds: "1:05", "2:03:09".
std::string format_duration(double seconds);
/// "12,345": thousands separated.
std::string format_count(std::int64_t value);

/// "19.1 MB": decimal units.
std::string format_bytes(std::int64_t bytes);

/// Reports a stage's progress on standard error: source, done/total and what is counted, rate, note, time left. Silent
/// if info messages are hidden.
class Progress {
 public:
  struct Options {
    std::string counts{};           ///< what is counted, such as "steps"; "bytes" are shown in kB or MB, with a rate
    std::string source{};           ///< the subject, such as the name of a text
    std::string rate_unit = "tok";  ///< what `work` counts, shown as "tok/s"; empty shows no rate
    double plain_interval = 60.0;   ///< seconds between lines when standard error is not a terminal
    bool quiet = false;             ///< prints nothing at all
    bool is_passing = false;        ///< a frequent part of another stage: prints no last line
    std::int64_t start = 0;         ///< done by an earlier process
  };

  /// `total`: how many there are (0 if unknown). Nothing is printed before the first update.
  Progress(std::string stage, std::int64_t total) : Progress(std::move(stage), total, Options()) {}
  Progress(std::string stage, std::int64_t total, Options options);
  /// Ends the line if the stage did not finish.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A Progress that prints nothing.
  static Progress& silent();

  /// For a stage that learns its total after it started, or ends early.
  void set_total(std::int64_t total) { total_ = total; }
  /// For a stage that learns later how many an earlier process has done.
  void set_start(std::int64_t start) { options_.start = done_ = start; }
  /// `done`: how many are done so far; `work`: tokens processed so far; `note`: free text such as "loss 2.931".
  void update(std::int64_t done, std::int64_t work = 0, const std::string& note = "");
  /// Prints the last line, with the total and the elapsed time.
  void finish(const std::string& note = "");
  /// Seconds since construction.
  double elapsed() const;

 private:
  bool is_hidden() const;
  std::string count() const;
  void print(bool last);

  std::string stage_;
  std::int64_t total_;
  Options options_;
  bool live_;
  bool printed_ = false;
  bool finished_ = false;
  std::int64_t done_;
  std::int64_t work_ = 0;
  std::string note_;
  std::chrono::steady_clock::time_point start_;
  double last_print_ = 0;
};

namespace detail {
/// At the rate of the steps start .. done-1, which took `elapsed` seconds.
double seconds_left(double elapsed, std::int64_t start, std::int64_t done, std::int64_t total);
}  // namespace detail

}  // namespace adept
