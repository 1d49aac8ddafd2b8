#include "adept/run/same_texts.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <utility>

#include "adept/core/host_name.h"
#include "adept/core/json.h"
#include "adept/dist/process_group.h"

namespace adept::run {
namespace {

struct NamedText {
  const char* key;
  const data::TokenDataset* tokens;
};

std::vector<NamedText> list_texts(const std::vector<TextsOf>& all) {
  std::vector<NamedText> texts;
  for (const auto& [key, datasets] : all)
    for (const data::TokenDataset& dataset : datasets) texts.push_back({key, &dataset});
  return texts;
}

// Of what is not in a file, the process.
std::string identify_store(const data::TokenDataset& tokens, int rank) {
  struct stat status = {};
  if (tokens.folder().empty() || ::stat(tokens.folder().c_str(), &status) != 0) return fmt::format("rank {}", rank);
  return fmt::format("{} {} {}", machine_identity(), status.st_dev, status.st_ino);
}

std::vector<std::vector<std::string>> identify_stores(const std::vector<NamedText>& texts, dist::ProcessGroup& group) {
  Json own = Json::array();
  for (const NamedText& text : texts) own.push_back(identify_store(*text.tokens, group.rank()));
  std::vector<std::vector<std::string>> seen;
  for (const std::string& of_rank : group.all_gather(own.dump()))
    seen.push_back(Json::parse(of_rank).get<std::vector<std::string>>());
  return seen;
}

}  // namespace

std::vector<bool> detail::checked_by(const std::vector<std::vector<std::string>>& seen, std::size_t rank) {
  std::vector<bool> checks;
  for (std::size_t i = 0; i < seen[rank].size(); ++i) {
    std::vector<std::size_t> sharing;  // ranks
    for (std::size_t r = 0; r < seen.size(); ++r)
      if (i < seen[r].size() && seen[r][i] == seen[rank][i]) sharing.push_back(r);
    checks.push_back(sharing[i % sharing.size()] == rank);
  }
  return checks;
}

void require_same_texts(const Datasets& datasets) {
  require_same_texts({{"data.train", datasets.train},
                      {"data.replay", datasets.replay},
                      {"data.general", datasets.general},
                      {"data.eval", datasets.eval}});
}

void require_same_texts(const std::vector<TextsOf>& all) {
  dist::ProcessGroup& group = dist::world();
  if (group.size() == 1) return;
  const std::vector<NamedText> texts = list_texts(all);
  const std::vector<bool> checks =
      detail::checked_by(identify_stores(texts, group), static_cast<std::size_t>(group.rank()));
  group.agree([&] {
    dist::HeldByName held;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto& [key, tokens] = texts[i];
      if (checks[i]) tokens->verify();
      held[fmt::format("tokens of {} ({})", key, tokens->name())] = {tokens->fingerprint(), tokens->folder().string()};
    }
    return held;
  });
}

}  // namespace adept::run
