// A program for the parity tests: prints the sequences that a training run reads, one JSON object a line.
//
//   loader_tool CONFIG.yaml CACHE_DIR NUM_SEQUENCES      -> {"source": "name", "tokens": [...],
//                                                          "document_starts": [...],
//                                                          "untrained": [[begin, end], ...]}
#include <fmt/format.h>

#include <cstdlib>

#include "adept/core/error.h"
#include "adept/core/json.h"
#include "adept/core/log.h"
#include "adept/run/text.h"

namespace adept {
namespace {

Json spans_json(const std::vector<data::TokenSpan>& spans) {
  Json json = Json::array();
  for (const data::TokenSpan& span : spans) json.push_back({span.begin, span.end});
  return json;
}

void print_sequences(const std::string& config_path, const std::string& cache_dir, std::int64_t num_sequences) {
  const config::RunConfig config = config::load_run_config(config_path, {}, config::Purpose::kTrain);
  const run::TextModel model = run::load_text_model(config.model);
  const run::Datasets datasets = run::tokenize_all(model, config.data, cache_dir);
  data::TrainLoader loader = run::make_train_loader(model, config, datasets);
  for (const data::Sequence& sequence : loader.next_step(num_sequences))
    fmt::print("{}\n", Json{{"source", loader.source_name(sequence.source)},
                            {"tokens", sequence.tokens},
                            {"document_starts", sequence.document_starts},
                            {"untrained", spans_json(sequence.untrained)}}
                           .dump());
}

}  // namespace
}  // namespace adept

int main(int argc, char** argv) {
  adept::init_logging();
  try {
    ADEPT_CHECK(argc == 4, "expected CONFIG.yaml CACHE_DIR NUM_SEQUENCES");
    adept::print_sequences(argv[1], argv[2], std::strtoll(argv[3], nullptr, 10));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
