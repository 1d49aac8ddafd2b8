#include "adept/train/trainer_log.h"

#include <fcntl.h>

#include <cerrno>
#include <limits>
#include <span>
#include <sstream>

#include "adept/core/error.h"
#include "adept/core/log.h"
#include "adept/core/progress.h"
#include "adept/io/atomic_file.h"
#include "adept/io/posix.h"

namespace adept::train {

JsonlFile::JsonlFile(std::filesystem::path path, const std::string& step_key, std::int64_t last_step,
                     std::string_view repeated)
    : path_(std::move(path)), step_key_(step_key) {
  std::string kept, line;
  constexpr auto kAll = std::numeric_limits<std::size_t>::max();
  std::istringstream old(is_present(path_) ? read_all(open_for_reading(path_), path_, kAll) : "");
  std::int64_t damaged = 0;
  const auto is_repeated = [&](const SortedJson& json) {
    return !repeated.empty() && std::any_of(json.items().begin(), json.items().end(),
                                            [&](const auto& item) { return item.key().starts_with(repeated); });
  };
  while (std::getline(old, line)) {
    const SortedJson json = SortedJson::parse(line, nullptr, /*allow_exceptions=*/false);  // units may be many
    if (!json.is_object() || !json.contains(step_key) || !json[step_key].is_number_integer())
      damaged += old.eof() ? 0 : 1;  // a kill cuts the last line short
    else if (json[step_key] <= last_step && !(json[step_key] == last_step && is_repeated(json)))
      kept += line + "\n";
  }
  if (damaged > 0) log_warning("{}: dropped {} damaged line(s)", path_.string(), damaged);
  io::write_file_atomically(path_, kept);
}

void JsonlFile::log(const Json& values, std::int64_t step) {
  Json line = {{step_key_, step}};
  line.update(values);
  const UniqueFd fd(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
  if (!fd.is_open()) throw system_error(path_, "open for writing", errno);
  const std::string text = line.dump() + "\n";
  io::write_all(fd.get(), std::as_bytes(std::span(text)), path_);
}

Json to_json(const LogLine& line) {
  Json json = {{"total_steps", line.total_steps}};
  json.update(line.extra);
  json["epoch"] = line.epoch;
  json["percentage"] = line.percentage;
  json["elapsed_time"] = format_duration(line.elapsed_seconds);
  json["remaining_time"] = format_duration(line.remaining_seconds);
  json["throughput"] = line.throughput;
  json["total_tokens"] = line.total_tokens;
  return json;
}

Json importance_line(const method::UnitValues& importance, const method::UnitValues& lr_weights) {
  return {{"importance", importance}, {"lr_weight", lr_weights}};
}

}  // namespace adept::train
