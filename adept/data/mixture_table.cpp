#include "adept/data/mixture_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/core/progress.h"

namespace adept::data {

std::string format_mixture(const TrainLoader& loader) {
  std::size_t width = 6;
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) width = std::max(width, loader.source_name(s).size());
  std::string table =
      fmt::format("{:<{}}  {:>12}  {:>7}  {:>16}  {:>16}  {:>7}  {:>12}  {:>7}\n", "source", width, "documents",
                  "split", "tokens/epoch", "sequences/epoch", "padding", "at most", "share");
  for (std::int64_t s = 0; s < loader.num_sources(); ++s) {
    const SequenceCounts& counts = loader.counts(s);
    const std::optional<std::int64_t> limit = loader.max_sequences(s);
    const auto share_at = [&](double progress) { return fmt::format("{:.2f}%", 100 * loader.share(s, progress)); };
    table += fmt::format("{:<{}}  {:>12}  {:>6.2f}%  {:>16}  {:>16}  {:>6.2f}%  {:>12}  {:>7}\n", loader.source_name(s),
                         width, format_count(counts.documents), 100 * loader.split_share(s),
                         format_count(counts.covered), format_count(loader.sequences_per_epoch(s)),
                         100 * loader.padding_share(s), limit ? format_count(*limit) : "",
                         loader.has_schedule() ? share_at(0) + " to " + share_at(1) : share_at(0));
  }
  return table;
}

}  // namespace adept::data
