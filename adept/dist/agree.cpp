#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "adept/core/json.h"
#include "adept/dist/process_group.h"

namespace adept::dist {
namespace {

constexpr std::size_t kMostNames = 20;  // in a message

/// "ranks 0, 2: x; rank 1: y (in /place)", what most ranks have first; empty if all have the same value.
std::string describe(const std::string& name, const std::vector<HeldByName>& held) {
  std::set<std::string> values;
  std::map<std::string, std::vector<std::size_t>> ranks;  // by what the message says
  for (std::size_t rank = 0; rank < held.size(); ++rank) {
    const auto found = held[rank].find(name);
    const Held& of_rank = found == held[rank].end() ? Held{.value = "nothing"} : found->second;
    values.insert(of_rank.value);
    ranks[of_rank.value + (of_rank.place.empty() ? "" : fmt::format(" (in {})", of_rank.place))].push_back(rank);
  }
  if (values.size() == 1) return "";
  std::vector<std::pair<std::string, std::vector<std::size_t>>> ordered(ranks.begin(), ranks.end());
  std::ranges::sort(ordered, [](const auto& a, const auto& b) {
    return std::pair(-std::ssize(a.second), a.second) < std::pair(-std::ssize(b.second), b.second);
  });
  std::string text;
  for (const auto& [value, who] : ordered)
    text += fmt::format("{}{} {}: {}", text.empty() ? "" : "; ", who.size() == 1 ? "rank" : "ranks",
                        fmt::join(who, ", "), value);
  return fmt::format("{}: {}", name, text);
}

Json to_json(const HeldByName& held) {
  Json json = Json::object();
  for (const auto& [name, one] : held) json[name] = {one.value, one.place};
  return json;
}

HeldByName from_json(const Json& json) {
  HeldByName held;
  for (const auto& [name, one] : json.items())
    held[name] = {.value = one.at(0).get<std::string>(), .place = one.at(1).get<std::string>()};
  return held;
}

}  // namespace

void ProcessGroup::agree(FunctionRef<HeldByName()> held, std::string_view advice) {
  if (!members_) return;
  const std::string own = to_json(held()).dump();
  meet();
  std::vector<HeldByName> all;
  std::set<std::string> names;
  for (const std::string& text : all_gather(own)) {
    all.push_back(from_json(Json::parse(text)));
    for (const auto& [name, one] : all.back()) names.insert(name);
  }
  std::vector<std::string> lines;
  for (const std::string& name : names)
    if (const std::string line = describe(name, all); !line.empty()) lines.push_back(line);
  if (lines.empty()) return;
  if (lines.size() > kMostNames) {
    const std::size_t rest = lines.size() - kMostNames;
    lines.resize(kMostNames);
    lines.push_back(fmt::format("and {} more", rest));
  }
  throw DisagreementError("the processes of the job differ in what they must have alike:\n  {}\n{}",
                          fmt::join(lines, "\n  "), advice);
}

}  // namespace adept::dist
