// What holds of a probe by any method: sources, padding, stability, early stops, sessions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adept/core/error.h"
#include "adept/method/options.h"
#include "tests/support/reads.h"
#include "tests/unit/method/importance_util.h"

namespace adept::method {
namespace {

using test::Says;
using ::testing::HasSubstr;

TEST(Probe, DoesNotDependOnWhatThePaddingHolds) {
  const model::Decoder decoder = test::decoder_of_kind("mistral");
  for (const std::string& method : general_importance_methods())
    expect_equal(probe_with(method, decoder, padded_batches(0)), probe_with(method, decoder, padded_batches(17)));
}

TEST(Probe, OfOneSequenceHasInfiniteIntervalsAndNoStability) {
  for (const std::string& method : general_importance_methods()) {
    const Importance found = probe_with(method, test::decoder_of_kind("llama"), {test::random_batch({9})});
    for (const LayerImportance& layer : found.layers) {
      EXPECT_EQ(layer.ci95[0], -kInfinity) << method;
      EXPECT_EQ(layer.ci95[1], kInfinity) << method;
    }
    EXPECT_EQ(found.stability.num_resamples, 0) << method;
  }
}

TEST(Probe, RefusesTextWithoutAPredictedToken) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  for (const auto& batches : {std::vector<model::Batch>{}, {test::random_batch({1, 1})}})
    for (const std::string& method : general_importance_methods())
      EXPECT_THAT(test::message_of<DataError>([&] { probe_with(method, decoder, batches); }),
                  HasSubstr("found no token to predict; expected documents of at least two tokens"));
}

TEST(Probe, RefusesAModelWithAWeightThatIsNotANumber) {
  model::Decoder decoder = test::decoder_of_kind("llama");
  decoder.weights().layers[2].feed_forward.body.output.linear.weight[3][4] = std::nan("");
  for (const char* method : {"mask_out", "cumulative", "fisher", "block_influence", "taylor_gate"})
    EXPECT_THAT(test::message_of<NonFiniteError>([&] { probe_with(method, decoder, {test::random_batch({9, 4})}); }),
                HasSubstr("the score is not finite"))
        << method;
}

TEST(Probe, OfAllMethodsAtOnceGivesWhatEachGivesAlone) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const std::vector<std::string> names = general_importance_methods();
  const std::vector<std::vector<ProbeBatch>> rounds = {of_one_source(padded_batches())};
  const auto all = probe(decoder, rounds, {.methods = names, .num_lowest = 2}, Progress::silent());
  ASSERT_EQ(all.size(), names.size());
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Importance alone = probe_with(names[i], decoder, padded_batches());
    EXPECT_EQ(all[i].method, names[i]);
    for (std::size_t l = 0; l < 4; ++l) {
      const double tolerance = 1e-5 * std::abs(alone.layers[l].score);  // one row alone, or several side by side
      EXPECT_NEAR(all[i].layers[l].score, alone.layers[l].score, tolerance) << names[i] << " " << l;
    }
  }
}

TEST(Probe, WeighsSourcesAsToldWhateverTheirSizes) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const model::Batch large = test::random_batch({9, 12, 7, 11}, 1), small = test::random_batch({5, 6}, 2);
  for (const double weight : {1.0, 3.0}) {
    const std::vector<std::vector<ProbeBatch>> rounds = {{{large, 0, weight}, {small, 1, 1.0}}};
    const double share = weight / (weight + 1);
    for (const std::string& name : general_importance_methods()) {
      if (!std::get<FromSequences>(importance_method(name).scores).is_mean) continue;
      const Importance both = probe(decoder, rounds, {.methods = {name}, .num_lowest = 1}, Progress::silent()).at(0);
      const Importance a = probe_with(name, decoder, {large}), b = probe_with(name, decoder, {small});
      EXPECT_NEAR(both.baseline_loss, share * a.baseline_loss + (1 - share) * b.baseline_loss, 1e-9);
      for (std::size_t l = 0; l < 4; ++l)
        EXPECT_NEAR(both.layers[l].score, share * a.layers[l].score + (1 - share) * b.layers[l].score, 1e-9) << name;
    }
  }
}

TEST(MeanFactors, OfBatchesLeaveOutThoseWithoutAPredictedToken) {
  const std::vector<ProbeBatch> batches = {
      {test::random_batch({3}), 0, 1.0}, {test::random_batch({1}), 1, 5.0}, {test::random_batch({5, 4}), 2, 3.0}};
  EXPECT_EQ(mean_factors(batches, "text"), (std::vector<double>{0.25 / 2, 0, 0.75 / 7}));
  EXPECT_THAT(test::message_of<DataError>([&] { mean_factors(std::span(batches).subspan(1, 1), "some text"); }),
              HasSubstr("some text: found no token to predict"));
}

// Sequences of ten tokens whose measures are given: values[n][l].
ProbeSamples made_samples(const std::vector<std::vector<double>>& values) {
  ProbeSamples samples{.num_layers = static_cast<int>(values[0].size()),
                       .tokens = std::vector<double>(values.size(), 10.0),
                       .losses = std::vector<double>(values.size(), 20.0),
                       .sources = std::vector<int>(values.size(), 0),
                       .source_weights = {{0, 1.0}},
                       .tables = {}};
  for (const auto& row : values)
    for (const double value : row) samples.table("mask_out").values.push_back(10 * value);
  return samples;
}

TEST(Stability, IsTheShareOfResamplesInWhichALayerIsAmongTheLowest) {
  // Layer 0 is always lowest; 1 and 2 trade places from sequence to sequence; 3 is always highest.
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 40; ++n) values.push_back({0.1, n % 2 == 0 ? 0.2 : 0.4, n % 2 == 0 ? 0.41 : 0.21, 0.9});
  const Importance found = summarize(made_samples(values), importance_method("mask_out"), 2);
  EXPECT_EQ(found.stability.num_lowest, 2);
  EXPECT_EQ(found.stability.num_resamples, 1000);
  EXPECT_NEAR(found.layers[0].lowest_share, 1, 1e-9);
  EXPECT_EQ(found.layers[3].lowest_share, 0);
  EXPECT_NEAR(found.layers[1].lowest_share + found.layers[2].lowest_share, 1, 1e-9);
  EXPECT_NEAR(found.stability.same_set_share, found.layers[1].lowest_share, 1e-9);
  // The mean of 40 draws of +-0.2 has a standard deviation of 0.0316, the means differ by 0.01: P(2 z * 0.0316 < 0.01).
  EXPECT_NEAR(found.layers[1].lowest_share, 0.56, 0.06);
  EXPECT_NEAR(found.stability.covariance[1][1], 0.01 / 40, 0.01 / 40 * 0.15);
  EXPECT_NEAR(found.stability.covariance[1][2], -0.01 / 40, 0.01 / 40 * 0.15);
  EXPECT_NEAR(found.stability.covariance[0][0], 0, 1e-20);
  EXPECT_EQ(found.stability.degrees_of_freedom, 39);
}

TEST(Stability, IsTheSameEveryTime) {
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 20; ++n) values.push_back({std::sin(n), std::cos(n), 0.1});
  const ProbeSamples samples = made_samples(values);
  expect_equal(summarize(samples, importance_method("mask_out"), 1),
               summarize(samples, importance_method("mask_out"), 1));
}

TEST(UntilSeparated, StopsAtTheFirstLookThatIsCertainAndElseReadsEverything) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  std::vector<std::vector<ProbeBatch>> rounds;
  for (unsigned seed = 0; seed < 4; ++seed)
    rounds.push_back({{test::random_batch(std::vector<std::int64_t>(20, 12), seed + 1), 0}});
  const auto with = [&](int num_lowest) {
    return probe(decoder, rounds, {.methods = {"mask_out"}, .num_lowest = num_lowest, .until_separated = true},
                 Progress::silent())
        .at(0);
  };
  const Importance trivial = with(4);  // all four of four layers
  ASSERT_TRUE(trivial.separation);
  EXPECT_TRUE(trivial.separation->reached);
  EXPECT_EQ(trivial.separation->looks, 1);
  EXPECT_EQ(trivial.sequences, 20);
  EXPECT_DOUBLE_EQ(trivial.separation->required_share, 1 - 0.05 / 4);
  for (const int k : {1, 2, 3}) {
    const Importance found = with(k);
    const bool certain = found.stability.same_set_share >= found.separation->required_share;
    EXPECT_EQ(found.separation->reached, certain) << k;
    EXPECT_EQ(found.sequences, 20 * found.separation->looks) << k;
    if (!certain) {
      EXPECT_EQ(found.separation->looks, 4) << k;
    }
  }
}

TEST(Probe, RefusesToChooseMoreLayersThanThereAre) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const std::vector<std::vector<ProbeBatch>> rounds = {of_one_source(padded_batches())};
  for (const int k : {0, 5})
    EXPECT_THAT(test::message_of<ConfigError>(
                    [&] { probe(decoder, rounds, {.methods = {"mask_out"}, .num_lowest = k}, Progress::silent()); }),
                HasSubstr(fmt::format("found {}; expected 1 to 4, the number of layers of the model", k)));
}

TEST(ImportanceMethods, AreThoseOfTheConfigurationAndThoseThatNeedDomainText) {
  std::vector<std::string> general;
  for (const ImportanceMethod& method : importance_methods()) {
    if (!method.needs_domain) {
      general.emplace_back(method.name);
      EXPECT_THAT(general_importance_meanings("\n"), HasSubstr(fmt::format("{}: {}", method.name, method.meaning)));
    }
    EXPECT_EQ(importance_method(method.name).name, method.name);
    EXPECT_EQ(find_importance_method(method.name), &importance_method(method.name));
  }
  EXPECT_EQ(general_importance_methods(), general);
  EXPECT_EQ(general.front(), LayerProbeOptions().method);
  EXPECT_TRUE(importance_method("gain").needs_domain);
  EXPECT_EQ(find_importance_method("mask-out"), nullptr);
  EXPECT_THAT(test::message_of<ConfigError>([] { importance_method("mask-out"); }),
              Says("found \"mask-out\"; expected ...mask_out, cumulative, rank_aggregation, fisher"));
}

TEST(Probe, GivesFiguresOfAMethodThatLooksAtWholeTextsBesideTheOthers) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const std::vector<std::vector<ProbeBatch>> general = {of_one_source(padded_batches())};
  const std::vector<ProbeBatch> domain = of_one_source({test::random_batch({11, 6}, 8)});
  const ProbeOptions options = {.methods = {"gain", "fisher"}, .num_lowest = 2};
  const auto found = probe(decoder, {general, domain}, options, Progress::silent());
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].method, "gain");
  EXPECT_EQ(found[0].tokens, 15) << "of the domain";
  for (const LayerImportance& layer : found[0].layers) {
    ASSERT_EQ(layer.figures.size(), importance_method("gain").figures.size());
    EXPECT_EQ(layer.figures[0], layer.score);
  }
  expect_equal(found[1], probe_with("fisher", decoder, padded_batches()));
  const Importance read = importance_from_json(to_json(found[0]), "scores");
  for (std::size_t l = 0; l < 4; ++l) EXPECT_EQ(read.layers[l].figures, found[0].layers[l].figures);
  EXPECT_EQ(probe_work(decoder, {general, domain}, options), 4 + 1 + 8) << "batches of both texts, and rows";
}

TEST(Probe, OfAMethodThatNeedsDomainTextRefusesToDoWithout) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  const std::vector<std::vector<ProbeBatch>> general = {of_one_source(padded_batches())};
  EXPECT_THAT(test::message_of<DataError>(
                  [&] { probe(decoder, general, {.methods = {"gain"}, .num_lowest = 2}, Progress::silent()); }),
              HasSubstr("domain text: found no token to predict"));
}

TEST(Stability, LeavesOutWhatIsExcluded) {
  std::vector<std::vector<double>> values;
  for (int n = 0; n < 40; ++n) values.push_back({0.1, n % 2 == 0 ? 0.2 : 0.4, n % 2 == 0 ? 0.41 : 0.21, 0.9});
  const Importance found = summarize(made_samples(values), importance_method("mask_out"), 1, {0});
  EXPECT_EQ(found.layers[0].lowest_share, 0);
  EXPECT_NEAR(found.layers[1].lowest_share + found.layers[2].lowest_share, 1, 1e-9);
  EXPECT_LT(found.stability.same_set_share, 0.9) << "layers 1 and 2 are not separated, whatever layer 0 is";
}

TEST(Probe, GoesOnFromWhatAnEarlierSessionMeasured) {
  const model::Decoder decoder = test::decoder_of_kind("llama");
  std::vector<std::vector<ProbeBatch>> rounds;
  for (std::uint64_t round = 0; round < 3; ++round)
    rounds.push_back(of_one_source({test::random_batch({6, 5, 7, 4, 6, 5, 7, 4}, 2 * round + 1),
                                    test::random_batch({6, 5, 7, 4, 6, 5, 7, 4}, 2 * round + 2)}));
  for (const bool until_separated : {false, true}) {
    const ProbeOptions options = {
        .methods = {"mask_out", "fisher"}, .num_lowest = 2, .until_separated = until_separated};
    const std::vector<Importance> whole = probe(decoder, rounds, options, Progress::silent());
    for (const std::int64_t batches : {1, 3}) {
      // What a session that was interrupted after so many batches leaves, through its file.
      ProbeState state{.batches = batches, .samples = {}};
      std::vector<std::vector<ProbeBatch>> first = {{}};
      for (const auto& round : rounds)
        for (const ProbeBatch& batch : round)
          if (std::ssize(first[0]) < batches) first[0].push_back(batch);
      if (batches > 0) {
        ProbeState earlier;
        probe(decoder, first, {.methods = options.methods, .num_lowest = 2}, Progress::silent(), earlier);
        EXPECT_EQ(earlier.batches, batches);
        state.samples = samples_from_json(parse_json(to_json(earlier.samples).dump(), "samples"));
      }
      const std::vector<Importance> resumed = probe(decoder, rounds, options, Progress::silent(), state);
      ASSERT_EQ(resumed.size(), whole.size());
      for (std::size_t i = 0; i < whole.size(); ++i) {
        SCOPED_TRACE(fmt::format("{} after {} batches", whole[i].method, batches));
        expect_equal(resumed[i], whole[i]);
        EXPECT_EQ(resumed[i].separation.has_value(), whole[i].separation.has_value());
        if (whole[i].separation) {
          EXPECT_EQ(resumed[i].separation->looks, whole[i].separation->looks);
        }
      }
    }
  }
}

}  // namespace
}  // namespace adept::method
