// Measurements of models by several processes: every rank gets the bits of one process, and computes a part.
#include <gmock/gmock.h>

#include <cstdlib>

#include "adept/core/json.h"
#include "adept/eval/evaluate.h"
#include "adept/method/beyond/copies.h"
#include "adept/method/beyond/probe.h"
#include "adept/method/options.h"
#include "adept/method/unit_importance.h"
#include "adept/train/sharded_layers.h"
#include "processes.h"
#include "tests/support/counted_operations.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::dist {
namespace {

using test::Outcome;

using Measure = std::function<std::string(ProcessGroup&)>;

struct Measured {
  std::string text;
  std::int64_t operations = 0;  // of ATen, by the rank
};

std::vector<Measured> measure_by(int size, const Measure& measure) {
  std::vector<Measured> results;
  for (const Outcome& outcome : test::run_job(size, [&](ProcessGroup& group) {
         adept::test::CountedOperations operations;
         std::string text;
         operations.interruption(-1, [&] { text = measure(group); });
         return fmt::format("{} {}", operations.count(), text);
       })) {
    EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
    const auto space = outcome.text.find(' ');
    results.push_back({.text = outcome.text.substr(space + 1), .operations = std::atoll(outcome.text.c_str())});
  }
  return results;
}

/// `most`: of the operations of one process that each of two computes.
void expect_same_of_any_number(const Measure& measure, double most = 0.8) {
  const Measured expected = measure_by(1, measure).front();
  for (const int size : {2, 3})
    for (const Measured& found : measure_by(size, measure)) {
      EXPECT_EQ(found.text, expected.text) << size;
      EXPECT_LT(static_cast<double>(found.operations), most * static_cast<double>(expected.operations)) << size;
    }
}

std::vector<method::ProbeBatch> batches_of_two_sources() {
  return {{adept::test::random_batch({9, 4, 7}, 1), 0, 1.0},
          {adept::test::random_batch({13, 2, 1}, 2), 0, 1.0},
          {adept::test::random_batch({1}, 3), 0, 1.0},
          {adept::test::random_batch({11, 12}, 4), 1, 3.0}};
}

TEST(DividedProbe, OfEveryMethodIsThatOfOneProcess) {
  const model::Decoder decoder = adept::test::decoder_of_kind("qwen3");
  for (const auto& method : method::importance_methods()) {
    SCOPED_TRACE(method.name);
    expect_same_of_any_number([&](ProcessGroup& group) {
      const std::vector<std::vector<method::ProbeBatch>> rounds = {batches_of_two_sources()};
      const auto domain = batches_of_two_sources();
      const auto found =
          method::probe(decoder, {rounds, domain}, {.methods = {std::string(method.name)}, .num_lowest = 2},
                        Progress::silent(), group);
      return method::to_json(found).dump();
    });
  }
}

TEST(DividedProbe, WithAllMethodsAndUntilLayersAreSeparatedIsThatOfOneProcess) {
  const model::Decoder decoder = adept::test::decoder_of_kind("llama");
  std::vector<std::vector<method::ProbeBatch>> rounds(3);
  for (std::uint64_t i = 0; i < 12; ++i)
    rounds[std::min<std::size_t>(i / 4, 2)].push_back({adept::test::random_batch({9, 8, 6, 5}, i)});
  expect_same_of_any_number([&](ProcessGroup& group) {
    const method::ProbeOptions options = {
        .methods = method::general_importance_methods(), .num_lowest = 1, .until_separated = true};
    return method::to_json(method::probe(decoder, rounds, options, Progress::silent(), group)).dump();
  });
}

TEST(DividedProbe, OfFewBatchesDividesTheirLayers) {
  const model::Decoder decoder = adept::test::decoder_of_kind("llama");
  const std::vector<std::vector<method::ProbeBatch>> rounds = {{{adept::test::random_batch({9, 8})}}};
  expect_same_of_any_number(
      [&](ProcessGroup& group) {
        return method::to_json(method::probe(decoder, rounds, {.num_lowest = 1}, Progress::silent(), group)).dump();
      },
      /*most=*/0.9);  // each computes what is below the layers
}

TEST(DividedProbe, ContinuesWhatOneProcessBegan) {
  const model::Decoder decoder = adept::test::decoder_of_kind("llama");
  const std::vector<std::vector<method::ProbeBatch>> rounds = {batches_of_two_sources()}, begun = {{rounds[0].front()}};
  const auto probe = [&](ProcessGroup& group, method::ProbeState from) {
    return method::to_json(method::probe(decoder, rounds, {.num_lowest = 1}, Progress::silent(), from, group)).dump();
  };
  const Measured samples = measure_by(1, [&](ProcessGroup& group) {
                             method::ProbeState state;
                             method::probe(decoder, begun, {.num_lowest = 1}, Progress::silent(), state, group);
                             return method::to_json(state.samples).dump();
                           }).front();
  const Measured expected = measure_by(1, [&](ProcessGroup& group) { return probe(group, {}); }).front();
  const method::ProbeState state = {.batches = 1, .samples = method::samples_from_json(Json::parse(samples.text))};
  for (const Measured& found : measure_by(2, [&](ProcessGroup& group) { return probe(group, state); }))
    EXPECT_EQ(found.text, expected.text);
}

TEST(DividedUnitImportance, IsThatOfOneProcess) {
  const adept::test::TemporaryDirectory directory;
  const auto model = adept::test::write_expanded_model(directory.path(), "qwen3", {1, 3});
  const model::Decoder decoder = adept::test::load_decoder(model.expanded);
  expect_same_of_any_number([&](ProcessGroup& group) {
    return Json(method::unit_importance(model.expansion, method::make_units(model.expansion, decoder), decoder,
                                        batches_of_two_sources(), Progress::silent(), group))
        .dump();
  });
}

TEST(DividedInspectionOfCopies, IsThatOfOneProcess) {
  const adept::test::TemporaryDirectory directory;
  const auto model = adept::test::write_expanded_model(directory.path(), "qwen3", {1, 3});
  const model::Decoder decoder = adept::test::load_decoder(model.expanded);
  expect_same_of_any_number([&](ProcessGroup& group) {
    return method::to_json(
               method::inspect_copies(decoder, model.expansion, batches_of_two_sources(), Progress::silent(), group))
        .dump();
  });
}

TEST(DividedEvaluation, IsThatOfOneProcess) {
  const model::Decoder decoder = adept::test::decoder_of_kind("llama");
  std::vector<std::vector<std::int32_t>> documents;
  for (const std::int64_t length : {11, 2, 1, 29, 6, 17, 14})
    documents.push_back(adept::test::random_tokens(length, static_cast<std::uint64_t>(length)));
  const std::vector<std::int64_t> bytes(documents.size(), 50);
  const data::TokenDataset dataset({.name = "set", .vocab_size = 53, .counts = {}}, documents, bytes);
  const eval::EvalSet set = {"set", data::windows(dataset, {.seq_len = 8})};
  expect_same_of_any_number([&](ProcessGroup& group) {
    const eval::Result result = eval::evaluate(decoder, set, {.batch_size = 2}, group);
    return fmt::format("{} {}", eval::to_json(result).dump(), *result.headline().standard_error);
  });
}

/// Measures with a decoder.
using MeasureWith = std::function<std::string(const model::Decoder&, ProcessGroup&)>;

/// Processes that share the layers of the model in `directory` get what one with all of them does.
void expect_same_with_shared_layers(const std::filesystem::path& directory, const MeasureWith& measure) {
  const std::string expected =
      measure_by(1, [&](ProcessGroup& group) { return measure(adept::test::load_decoder(directory), group); })
          .front()
          .text;
  for (const int size : {2, 3})
    for (const Measured& found : measure_by(
             size, [&](ProcessGroup& group) { return measure(train::load_sharded(directory, {}, group), group); }))
      EXPECT_EQ(found.text, expected) << size;
}

TEST(SharedLayers, AreProbedWithTheBitsOfOneProcessByEveryMethod) {
  const adept::test::TemporaryDirectory directory;
  for (const char* kind : {"qwen3", "gemma2"}) {
    adept::test::write_model(directory / kind, adept::test::config_of_kind(kind));
    for (const auto& method : method::importance_methods()) {
      SCOPED_TRACE(fmt::format("{} {}", kind, method.name));
      expect_same_with_shared_layers(directory / kind, [&](const model::Decoder& decoder, ProcessGroup& group) {
        const std::vector<std::vector<method::ProbeBatch>> rounds = {batches_of_two_sources(),
                                                                     {{adept::test::random_batch({8, 3, 2, 5}, 5)}}};
        const auto domain = batches_of_two_sources();
        return method::to_json(method::probe(decoder, {rounds, domain},
                                             {.methods = {std::string(method.name)}, .num_lowest = 2},
                                             Progress::silent(), group))
            .dump();
      });
    }
  }
}

TEST(SharedLayers, HaveCopiesWithTheSameEffects) {
  const adept::test::TemporaryDirectory directory;
  const auto model = adept::test::write_expanded_model(directory.path(), "qwen3", {1, 3});
  expect_same_with_shared_layers(model.expanded, [&](const model::Decoder& decoder, ProcessGroup& group) {
    return method::to_json(
               method::inspect_copies(decoder, model.expansion, batches_of_two_sources(), Progress::silent(), group))
        .dump();
  });
}

TEST(SharedLayers, EndAProbeAtTheSamePlaceAfterASignalAtOneProcess) {
  const adept::test::TemporaryDirectory directory;
  adept::test::write_model(directory / "model", adept::test::config_of_kind("llama"));
  for (const char* name : {"mask_out", "fisher", "block_influence", "gain"})
    for (const int interrupted : {0, 1}) {
      SCOPED_TRACE(fmt::format("{}, rank {}", name, interrupted));
      const auto outcomes = test::run_job(2, [&](ProcessGroup& group) -> std::string {
        const model::Decoder decoder = train::load_sharded(directory / "model", {}, group);
        const std::vector<std::vector<method::ProbeBatch>> rounds(4, batches_of_two_sources());
        const auto domain = batches_of_two_sources();
        method::ProbeState state;
        adept::test::CountedOperations operations;
        const auto text = operations.interruption(group.rank() == interrupted ? 300 : -1, [&] {
          method::probe(decoder, {rounds, domain}, {.methods = {name}, .num_lowest = 1}, Progress::silent(), state,
                        group);
        });
        return fmt::format("{}; {} batches", text.value_or("no interruption"), state.batches);
      });
      EXPECT_THAT(outcomes[0].text, adept::test::Says("terminated (SIGTERM); "));
      EXPECT_EQ(outcomes[0].text, outcomes[1].text);
    }
}

}  // namespace
}  // namespace adept::dist
