#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "adept/core/json.h"
#include "adept/dist/process_group.h"

namespace adept::dist {
namespace {

/// "ranks 0, 2: x; rank 1: y".
std::string describe(const std::string& name, const std::vector<Json>& values) {
  std::map<std::string, std::vector<std::size_t>> ranks;
  for (std::size_t rank = 0; rank < values.size(); ++rank)
    ranks[values[rank].contains(name) ? values[rank][name].get<std::string>() : "nothing"].push_back(rank);
  if (ranks.size() == 1) return "";
  std::string text;
  for (const auto& [value, who] : ranks)
    text += fmt::format("{}{} {}: {}", text.empty() ? "" : "; ", who.size() == 1 ? "rank" : "ranks",
                        fmt::join(who, ", "), value);
  return fmt::format("{}: {}", name, text);
}

}  // namespace

void ProcessGroup::agree(const std::map<std::string, std::string>& values) {
  std::vector<Json> all;
  std::set<std::string> names;
  for (const std::string& text : all_gather(Json(values).dump())) {
    all.push_back(Json::parse(text));
    for (const auto& [name, value] : all.back().items()) names.insert(name);
  }
  std::vector<std::string> lines;
  for (const std::string& name : names)
    if (const std::string line = describe(name, all); !line.empty()) lines.push_back(line);
  if (!lines.empty())
    throw DisagreementError(
        "the processes of the job differ in what they must have alike:\n  {}\nStart all of them with the same program, "
        "configuration, model and texts.",
        fmt::join(lines, "\n  "));
}

}  // namespace adept::dist
