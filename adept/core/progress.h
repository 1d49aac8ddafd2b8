// One line per long stage: live on a terminal, a plain line every minute when piped.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace adept {

/// "1:05", "2:03:09": seconds for people.
std::string format_duration(double seconds);
/// "12,345": thousands separated.
std::string format_count(std::int64_t value);

/// Reports a stage's progress on standard error: source, done/total and unit, rate, note, time left. It says nothing
/// where messages of the level info are hidden.
class Progress {
 public:
  struct Options {
    std::string unit{};             ///< what is counted, such as "steps"; "bytes" are shown in kB or MB
    std::string source{};           ///< what is worked on, such as the name of a text
    std::string rate_unit = "tok";  ///< what `work` counts, shown as "tok/s"; empty shows no rate
    double plain_interval = 60.0;   ///< seconds between lines when standard error is not a terminal
    bool quiet = false;             ///< prints nothing at all
    bool is_passing = false;        ///< a part of another stage that comes often: it has no last line
    std::int64_t start = 0;         ///< units that were done before, by an earlier process
  };

  /// `total` counts units (0 if unknown). Nothing is printed before the first update.
  Progress(std::string stage, std::int64_t total) : Progress(std::move(stage), total, Options()) {}
  Progress(std::string stage, std::int64_t total, Options options);
  /// Ends the line if the stage did not finish.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// A Progress that prints nothing.
  static Progress& silent();

  /// For a stage that learns how much there is to do only after it began, or ends before all is done.
  void set_total(std::int64_t total) { total_ = total; }
  /// `done` units are done, `work` (tokens) was done in all, `note` is free text such as "loss 2.931".
  void update(std::int64_t done, std::int64_t work = 0, const std::string& note = "");
  /// Prints the last line, whose count is the total, with the time that all took.
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
