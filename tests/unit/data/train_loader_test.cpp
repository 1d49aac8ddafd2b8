#include "adept/data/train_loader.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "adept/core/error.h"
#include "adept/core/random.h"
#include "adept/data/mixture_table.h"
#include "data_test_util.h"
#include "tests/support/reads.h"

namespace adept::data {
namespace {

using adept::test::Says;
using testing::AllOf;
using testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

constexpr std::int32_t kEos = 0;

std::vector<std::int64_t> random_lengths(std::uint64_t seed, std::int64_t count) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i)
    lengths.push_back(
        1 + static_cast<std::int64_t>(random_bits(seed, RandomStream::kSampling, static_cast<std::uint64_t>(i)) % 40));
  return lengths;
}

TrainLoader one_source(const TokenDataset& dataset, std::int64_t seq_len, std::uint64_t seed = 1,
                       bool document_mask = false) {
  return TrainLoader({{.dataset = dataset, .weight = {}}},
                     {.seq_len = seq_len, .eos = kEos, .seed = seed, .document_mask = document_mask});
}

TrainLoader two_sources(double domain = 3, double replay = 1, std::uint64_t seed = 5) {
  return TrainLoader({{.dataset = counting_dataset("domain", random_lengths(1, 37), 1), .weight = domain},
                      {.dataset = counting_dataset("replay", random_lengths(2, 11), 100'000), .weight = replay}},
                     {.seq_len = 16, .eos = kEos, .seed = seed});
}

Ids tokens_of(const std::vector<Sequence>& sequences) {
  Ids ids;
  for (const Sequence& sequence : sequences) ids.insert(ids.end(), sequence.tokens.begin(), sequence.tokens.end());
  return ids;
}

TEST(TrainLoader, GivesEveryTokenOnceInAnEpoch) {
  for (std::uint64_t seed = 0; seed < 60; ++seed)
    for (const std::int64_t seq_len : {2, 3, 16, 64, 5000}) {
      const auto lengths = random_lengths(seed, 1 + static_cast<std::int64_t>(seed));
      const TokenDataset dataset = counting_dataset("a", lengths);
      TrainLoader loader = one_source(dataset, seq_len, seed);
      for (int epoch = 0; epoch < 2; ++epoch) {
        const auto sequences = loader.next_step(loader.sequences_per_epoch(0));
        Ids ids = tokens_of(sequences);
        const std::int64_t all = dataset.num_tokens() + dataset.num_documents();
        EXPECT_EQ(static_cast<std::int64_t>(ids.size()), all - (all % seq_len == 1 ? 1 : 0))
            << "every document and its EOS; a lone last token, which has no target, excepted";
        std::erase(ids, kEos);
        std::sort(ids.begin(), ids.end());
        ASSERT_EQ(ids, test::all_ids(dataset)) << "seed " << seed;
        const auto is_short = [&](const Sequence& s) { return static_cast<std::int64_t>(s.tokens.size()) < seq_len; };
        ASSERT_LE(std::count_if(sequences.begin(), sequences.end(), is_short), 1) << "the tail of the source";
        if (epoch == 0) {
          ASSERT_TRUE(std::none_of(sequences.begin(), sequences.end() - 1, is_short)) << "where the stream ends";
        }
        for (const Sequence& sequence : sequences) ASSERT_GE(sequence.num_targets(), 1);
      }
    }
}

TEST(TrainLoader, KeepsDocumentsTogetherAndEndsThemWithEos) {
  const TokenDataset dataset = counting_dataset("a", {5, 1, 9, 4});
  TrainLoader loader = one_source(dataset, 6, 3);
  const Ids ids = tokens_of(loader.next_step(loader.sequences_per_epoch(0)));
  for (std::int64_t d = 0; d < dataset.num_documents(); ++d) {
    const auto document = test::document_ids(dataset, d);
    const auto at = std::search(ids.begin(), ids.end(), document.begin(), document.end());
    ASSERT_NE(at, ids.end());
    EXPECT_EQ(*(at + static_cast<long>(document.size())), kEos);
  }
}

TEST(TrainLoader, GivesWhatPackedGivesOfTheDocumentsInItsOrder) {
  const std::vector<std::int64_t> lengths = random_lengths(3, 20);
  const TokenDataset dataset = counting_dataset("a", lengths);
  for (const bool mask : {false, true}) {
    TrainLoader loader = one_source(dataset, 16, 1, mask);
    const std::vector<Sequence> first = loader.next_step(loader.sequences_per_epoch(0));
    const Ids ids = tokens_of(first);
    std::vector<Ids> documents;
    std::vector<std::int64_t> bytes;
    for (Ids rest = ids; !rest.empty();) {
      const auto end = std::find(rest.begin(), rest.end(), kEos);
      documents.emplace_back(rest.begin(), end);
      bytes.push_back(1);
      rest.erase(rest.begin(), end == rest.end() ? end : end + 1);
    }
    EXPECT_EQ(documents.size(), lengths.size());
    const TokenDataset in_order(dataset.info(), documents, bytes);
    std::vector<Sequence> set = packed(in_order, {.seq_len = 16, .eos = kEos, .document_mask = mask}).to_vector();
    EXPECT_EQ(first, set);
    const std::vector<Sequence> second = loader.next_step(loader.sequences_per_epoch(0));
    EXPECT_NE(second, set);
    EXPECT_TRUE(std::is_permutation(second.begin(), second.end(), set.begin(), set.end()));
  }
}

TEST(TrainLoader, GivesTheSameTokensWithADocumentMask) {
  const TokenDataset dataset = counting_dataset("a", random_lengths(3, 50));
  TrainLoader plain = one_source(dataset, 16), masked = one_source(dataset, 16, 1, true);
  const std::int64_t n = 3 * plain.sequences_per_epoch(0);
  std::vector<Sequence> sequences = masked.next_step(n);
  EXPECT_TRUE(std::any_of(sequences.begin(), sequences.end(),
                          [](const Sequence& sequence) { return !sequence.document_starts.empty(); }));
  for (Sequence& sequence : sequences) sequence.document_starts.clear();
  EXPECT_EQ(sequences, plain.next_step(n));
}

TEST(TrainLoader, ShufflesEachEpochSourceAndSeedAnew) {
  const auto lengths = random_lengths(3, 50);
  const TokenDataset dataset = counting_dataset("a", lengths);
  TrainLoader loader = one_source(dataset, 16);
  const std::int64_t n = loader.sequences_per_epoch(0);
  const auto first = loader.next_step(n), second = loader.next_step(n);
  EXPECT_NE(first, second);
  EXPECT_EQ(one_source(dataset, 16).next_step(n), first) << "the same seed";
  EXPECT_NE(one_source(dataset, 16, 2).next_step(n), first) << "another seed";
  EXPECT_NE(one_source(counting_dataset("b", lengths), 16).next_step(n), first) << "another source";
  EXPECT_NE(tokens_of(first), tokens_of(packed(dataset, {.seq_len = 16, .eos = kEos}).to_vector()));
}

TEST(TrainLoader, GivesTheSameSequencesInEveryEpochInAnotherOrder) {
  TrainLoader loader = one_source(counting_dataset("a", random_lengths(3, 50)), 16);
  const std::int64_t n = loader.sequences_per_epoch(0);
  const auto by_tokens = [](const Sequence& a, const Sequence& b) { return a.tokens < b.tokens; };
  std::vector<std::vector<Sequence>> epochs;
  for (int epoch = 0; epoch < 4; ++epoch) epochs.push_back(loader.next_step(n));
  for (std::size_t a = 0; a < epochs.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) EXPECT_NE(epochs[a], epochs[b]) << a << " and " << b;
  for (std::vector<Sequence>& epoch : epochs) std::sort(epoch.begin(), epoch.end(), by_tokens);
  for (const std::vector<Sequence>& epoch : epochs) EXPECT_EQ(epoch, epochs.front());
}

TEST(TrainLoader, KnowsWhichSourcesComeAgain) {
  const TrainLoader loader = two_sources(3, 1);
  for (const std::int64_t source : {0, 1}) {
    const double epoch = static_cast<double>(loader.sequences_per_epoch(source)) / loader.expected(source, 1);
    EXPECT_FALSE(loader.repeats_within(source, static_cast<std::int64_t>(std::floor(epoch))));
    EXPECT_TRUE(loader.repeats_within(source, static_cast<std::int64_t>(std::floor(epoch)) + 1));
  }
  for (std::int64_t a = 1; a <= 60; ++a)  // shares that are no binary fractions
    for (const std::int64_t b : {1, 7, 49, 93}) {
      const TrainLoader one_epoch({{.dataset = counting_dataset("a", {2 * a}), .weight = {}},
                                   {.dataset = counting_dataset("b", {2 * b}), .weight = {}}},
                                  {.seq_len = 2});
      for (const std::int64_t source : {0, 1}) EXPECT_FALSE(one_epoch.repeats_within(source, a + b)) << a << " " << b;
    }
}

TEST(TrainLoader, KeepsTheShareOfEverySourceWithinOneSequenceAllTheTime) {
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    std::vector<TrainSource> sources;
    const auto num_sources = 1 + trial % 9;
    double sum = 0;
    for (std::uint64_t s = 0; s < num_sources; ++s) {
      const double weight = std::exp(6 * random_uniform(trial, RandomStream::kSampling, s));
      sum += weight;
      sources.push_back({.dataset = counting_dataset("s" + std::to_string(s), {7, 9}), .weight = weight});
    }
    TrainLoader loader(sources, {.seq_len = 8, .eos = kEos});
    for (std::int64_t n = 1; n <= 1500; ++n) {
      loader.next_step(1);
      for (std::size_t s = 0; s < sources.size(); ++s) {
        const double expected = static_cast<double>(n) * sources[s].weight->at(0) / sum;
        ASSERT_LT(std::abs(static_cast<double>(loader.num_sequences(static_cast<std::int64_t>(s))) - expected),
                  1 + 1e-9)
            << "trial " << trial << ", source " << s << " after " << n;
      }
    }
  }
}

TEST(TrainLoader, WithoutWeightsTakesOneEpochOfEachSourceInTheSameTime) {
  TrainLoader loader({{.dataset = counting_dataset("a", random_lengths(1, 31)), .weight = {}},
                      {.dataset = counting_dataset("b", random_lengths(2, 7)), .weight = {}},
                      {.dataset = counting_dataset("c", random_lengths(3, 120)), .weight = {}}},
                     {.seq_len = 16, .eos = kEos});
  const std::int64_t total =
      loader.sequences_per_epoch(0) + loader.sequences_per_epoch(1) + loader.sequences_per_epoch(2);
  EXPECT_EQ(loader.sequences_for_epochs(1), total);
  EXPECT_EQ(loader.sequences_for_epochs(3), 3 * total);
  for (int epoch = 1; epoch <= 3; ++epoch) {
    loader.next_step(total);
    for (std::int64_t s = 0; s < 3; ++s) EXPECT_EQ(loader.num_sequences(s), epoch * loader.sequences_per_epoch(s));
  }
  EXPECT_EQ(loader.epochs(1), 3.0);
}

TEST(TrainLoader, IsExactWhereSharesAreNoBinaryFractions) {
  for (std::int64_t a = 1; a <= 60; ++a)
    for (const std::int64_t b : {1, 7, 49, 93}) {
      TrainLoader loader({{.dataset = counting_dataset("a", {2 * a}), .weight = {}},
                          {.dataset = counting_dataset("b", {2 * b}), .weight = {}}},
                         {.seq_len = 2});
      ASSERT_EQ(loader.sequences_per_epoch(0), a);
      for (int epoch = 1; epoch <= 3; ++epoch) {
        ASSERT_EQ(loader.sequences_for_epochs(epoch), epoch * (a + b));
        loader.next_step(a + b);
        ASSERT_EQ(loader.num_sequences(0), epoch * a) << a << " and " << b;
      }
    }
}

TEST(TrainLoader, CountsEpochsOverTheFirstSource) {
  for (const double epochs : {0.3, 1.0, 1.7, 4.0}) {
    TrainLoader loader = two_sources(0.7, 0.3);
    const std::int64_t n = loader.sequences_for_epochs(epochs);
    loader.next_step(n);
    EXPECT_GE(loader.epochs(0), epochs);
    EXPECT_LE(std::abs(loader.epochs(0) - epochs), 2.0 / static_cast<double>(loader.sequences_per_epoch(0)));
  }
  const TrainLoader loader = two_sources();
  for (const double epochs : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity(), 1e300})
    EXPECT_THROW(loader.sequences_for_epochs(epochs), ConfigError) << epochs;
}

TEST(TrainLoader, ContinuesFromAnyPositionAsIfNeverStopped) {
  TrainLoader loader = two_sources();
  const auto run = two_sources().next_step(200);
  for (std::size_t n = 0; n < 120; ++n) {
    TrainLoader resumed = two_sources();
    resumed.load_state(parse_json(loader.state().dump(), "state"), "state");
    const auto rest = resumed.next_step(80);
    ASSERT_TRUE(std::equal(rest.begin(), rest.end(), run.begin() + static_cast<long>(n))) << "after " << n;
    EXPECT_EQ(loader.next_step(1).front(), run[n]);
  }
  EXPECT_GT(loader.epochs(0), 1.0) << "the test crosses epochs";
  EXPECT_GT(loader.epochs(1), 1.0);
}

TEST(TrainLoader, GivesTheSameSequencesInStepsOfAnySize) {
  const auto run = two_sources().next_step(60);
  TrainLoader loader = two_sources();
  std::vector<Sequence> pieces;
  for (const std::int64_t size : {1, 7, 2, 30, 20})
    for (Sequence& sequence : loader.next_step(size)) pieces.push_back(std::move(sequence));
  EXPECT_EQ(pieces, run);
}

TEST(TrainLoader, TellsWhichSourceASequenceIsFrom) {
  for (const Sequence& sequence : two_sources().next_step(100))
    for (const std::int32_t id : sequence.tokens)
      if (id != kEos) {
        EXPECT_EQ(sequence.source, id >= 100'000 ? 1 : 0);
      }
}

TEST(TrainLoader, RefusesThePositionOfOtherData) {
  TrainLoader loader = two_sources();
  loader.next_step(9);
  const Json state = loader.state();
  const auto refusal = [&](TrainLoader other) {
    const Json before = other.state();
    const std::string message = message_of<ConfigError>([&] { other.load_state(state, "checkpoint-9"); });
    EXPECT_EQ(other.state(), before) << "unchanged";
    EXPECT_THAT(message, HasSubstr("checkpoint-9"));
    return message;
  };
  const TokenDataset domain = counting_dataset("domain", random_lengths(1, 37), 1);
  const TokenDataset replay = counting_dataset("replay", random_lengths(2, 11), 100'000);
  const TokenDataset changed = counting_dataset("replay", random_lengths(2, 11), 100'001);
  EXPECT_THAT(refusal(TrainLoader({{domain, 3}, {changed, 1}}, {.seq_len = 16, .eos = kEos, .seed = 5})),
              AllOf(HasSubstr("source \"replay\": its data (text, tokenizer, tag or excluded documents) has changed"),
                    testing::Not(HasSubstr("\"domain\""))));
  EXPECT_THAT(refusal(TrainLoader({{domain, 3}}, {.seq_len = 16, .eos = kEos, .seed = 5})),
              HasSubstr("source \"replay\" was removed"));
  const TokenDataset extra = counting_dataset("extra", {5});
  EXPECT_THAT(refusal(TrainLoader({{domain, 3}, {replay, 1}, {extra, 1}}, {.seq_len = 16, .eos = kEos, .seed = 5})),
              HasSubstr("source \"extra\" is new"));
  EXPECT_THAT(refusal(two_sources(1, 1)),
              HasSubstr("source \"domain\": its share of the tokens is 0.5 now, but was 0.75"));
  TrainLoader rounded = two_sources(3, std::nextafter(1, 2));
  EXPECT_NO_THROW(rounded.load_state(two_sources(3, 1).state(), "state")) << "shares that are equal but for rounding";
  EXPECT_THAT(refusal(TrainLoader({{domain, 3}, {replay, 1}}, {.seq_len = 17, .eos = 1, .seed = 6})),
              AllOf(HasSubstr("seed is 6 now, but was 5"), HasSubstr("seq_len is 17 now, but was 16"),
                    HasSubstr("eos is 1 now, but was 0")));
}

TEST(TrainLoader, DoesNotMindTheOrderOfTheSources) {
  TrainLoader loader = two_sources();
  loader.next_step(33);
  TrainLoader swapped({{counting_dataset("replay", random_lengths(2, 11), 100'000), 1},
                       {counting_dataset("domain", random_lengths(1, 37), 1), 3}},
                      {.seq_len = 16, .eos = kEos, .seed = 5});
  swapped.load_state(loader.state(), "state");
  EXPECT_EQ(tokens_of(swapped.next_step(50)), tokens_of(loader.next_step(50)));
}

TEST(TrainLoader, RefusesADamagedPosition) {
  TrainLoader loader = two_sources();
  loader.next_step(9);
  const Json good = loader.state();
  EXPECT_THROW(loader.load_state(Json::array(), "s"), DataError);
  EXPECT_THROW(loader.load_state(Json::object(), "s"), DataError);
  const auto damage = [&](const std::string& pointer, const Json& value) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    return message_of<DataError>([&] { loader.load_state(bad, "s"); });
  };
  EXPECT_THAT(damage("/sources/domain", 3), HasSubstr("not the state of a data loader"));
  EXPECT_THAT(damage("/sources/domain/sequences", -1), HasSubstr("not a count"));
  EXPECT_THAT(damage("/sources/domain/sequences", 1.5), HasSubstr("not a count"));
  EXPECT_THAT(damage("/sources/domain/sequences", std::numeric_limits<std::uint64_t>::max()), HasSubstr("not a count"));
  EXPECT_THAT(damage("/sources/domain/index", 3), HasSubstr("is inconsistent"));
  EXPECT_THAT(damage("/sources/domain/epoch", 3), HasSubstr("is inconsistent"));
  EXPECT_THAT(damage("/sources/domain/sequences_per_epoch", 3), HasSubstr("is inconsistent"));
  EXPECT_THAT(damage("/sources/domain/tokens", -1), HasSubstr("not a count"));
  EXPECT_THAT(damage("/removed/gone", {{"sequences", 0}, {"anchor", 0}, {"tokens", 0}, {"sequences_per_epoch", 0}}),
              HasSubstr("source \"gone\" has no sequences"));
  EXPECT_THAT(damage("/sequences", 10), HasSubstr("do not sum"));
  for (const char* count : {"sequences", "anchor"}) {
    const Json one = {{"sequences", 1}, {"anchor", 1}, {"tokens", 2}, {"sequences_per_epoch", 1}};
    Json most = one;
    most[count] = std::numeric_limits<std::int64_t>::max();
    EXPECT_EQ(damage("/removed", {{"a", most}, {"b", one}}),
              "s: the sequences of the sources are too many; the state is damaged.");
  }
  EXPECT_EQ(loader.state(), good);
}

TEST(TrainLoader, ReportsAllProblemsOfTheMixtureAtOnce) {
  const TokenDataset a = counting_dataset("a", {5}), b = counting_dataset("b", {5}), c = counting_dataset("c", {5});
  const std::string message = message_of<ConfigError>(
      [&] { TrainLoader({{a, std::nan("")}, {b, {}}, {c, 0.0}, {c, -1.0}}, {.seq_len = 1, .eos = -1}); });
  for (const char* part :
       {"seq_len is 1", "source \"a\": the weight is nan", "source \"b\" has no weight",
        "source \"c\": the weight is 0", "source \"c\": the weight is -1", "named \"c\"", "EOS id -1"})
    EXPECT_THAT(message, HasSubstr(part));
  EXPECT_THROW(TrainLoader({}, {.seq_len = 8}), ConfigError);
  EXPECT_THAT(message_of<ConfigError>([&] { TrainLoader({{a, 1e-300}, {b, 1e300}}, {.seq_len = 8}); }),
              HasSubstr("negligible"));
}

TEST(TrainLoader, RefusesASourceWithNothingToPredict) {
  EXPECT_THAT(message_of<ConfigError>(
                  [] { TrainLoader({{counting_dataset("tiny", {1}), {}}}, {.seq_len = 8, .eos = std::nullopt}); }),
              HasSubstr("source \"tiny\" has 1 documents with 1 tokens"));
}

// Of the ideal mixture after n sequences, found step by step.
std::vector<double> ideal(const std::vector<double>& weights, const std::vector<double>& limits, double n) {
  std::vector<double> amounts(weights.size(), 0.0);
  while (n > 1e-9) {
    double sum = 0, most = n;
    for (std::size_t s = 0; s < weights.size(); ++s) sum += amounts[s] < limits[s] - 1e-9 ? weights[s] : 0;
    for (std::size_t s = 0; s < weights.size(); ++s)
      if (amounts[s] < limits[s] - 1e-9) most = std::min(most, (limits[s] - amounts[s]) * sum / weights[s]);
    for (std::size_t s = 0; s < weights.size(); ++s)
      if (amounts[s] < limits[s] - 1e-9) amounts[s] += most * weights[s] / sum;
    n -= most;
  }
  return amounts;
}

TEST(TrainLoader, StopsASourceAtItsLimitAndGivesItsShareToTheOthersInProportion) {
  for (std::uint64_t trial = 0; trial < 40; ++trial) {
    std::vector<TrainSource> sources;
    std::vector<double> weights, limits;
    const auto num_sources = 1 + trial % 6;
    for (std::uint64_t s = 0; s < num_sources; ++s) {
      weights.push_back(std::exp(4 * random_uniform(trial, RandomStream::kSampling, s)));
      const double epochs = std::ceil(100 * random_uniform(trial, RandomStream::kSampling, 100 + s)) / 2;
      limits.push_back(2 * epochs);  // an epoch is two sequences of 8 tokens
      sources.push_back({.dataset = counting_dataset("s" + std::to_string(s), {7, 7}), .weight = weights.back()});
      sources.back().epochs = epochs;
    }
    TrainLoader loader(sources, {.seq_len = 8, .eos = kEos});
    const std::int64_t total = loader.max_sequences().value();
    EXPECT_EQ(static_cast<double>(total), std::accumulate(limits.begin(), limits.end(), 0.0));
    for (std::int64_t n = 1; n <= total; ++n) {
      loader.next_step(1);
      const std::vector<double> expected = ideal(weights, limits, static_cast<double>(n));
      for (std::size_t s = 0; s < sources.size(); ++s) {
        const auto source = static_cast<std::int64_t>(s);
        ASSERT_LT(std::abs(static_cast<double>(loader.num_sequences(source)) - expected[s]), 1 + 1e-6)
            << "trial " << trial << ", source " << s << " after " << n;
        ASSERT_NEAR(loader.expected(source, n), expected[s], 1e-6);
      }
    }
    for (std::size_t s = 0; s < sources.size(); ++s)
      EXPECT_EQ(static_cast<double>(loader.num_sequences(static_cast<std::int64_t>(s))), limits[s]);
    EXPECT_THROW(loader.next_step(1), InternalError);
  }
}

TrainLoader limited_sources(std::optional<double> epochs = 1.5, std::optional<std::int64_t> max_tokens = 300) {
  TrainSource domain{.dataset = counting_dataset("domain", random_lengths(1, 37), 1), .weight = 3};
  TrainSource replay{.dataset = counting_dataset("replay", random_lengths(2, 11), 100'000), .weight = 1};
  TrainSource rest{.dataset = counting_dataset("rest", random_lengths(3, 5), 200'000), .weight = 0.5};
  domain.epochs = epochs;
  replay.max_tokens = max_tokens;
  return TrainLoader({domain, replay, rest}, {.seq_len = 16, .eos = kEos, .seed = 5});
}

TEST(TrainLoader, GivesAtMostTheTokensAndEpochsOfTheLimits) {
  for (const std::int64_t most : {16, 100, 300, 1000, 5000}) {
    TrainLoader loader = limited_sources(1.5, most);
    loader.next_step(2000);
    EXPECT_EQ(loader.num_sequences(0), (3 * loader.sequences_per_epoch(0) + 1) / 2);
    EXPECT_LE(loader.num_tokens(1), most);
    EXPECT_GT(loader.num_tokens(1), most - 2 * 16) << "but for a sequence that is cut, and the tail";
    EXPECT_EQ(loader.num_sequences(2), 2000 - loader.num_sequences(0) - loader.num_sequences(1));
    EXPECT_EQ(loader.max_sequences(), std::nullopt);
  }
}

TEST(TrainLoader, CountsTheTokensOfEachSource) {
  TrainLoader loader = two_sources();
  std::vector<std::int64_t> tokens(2, 0);
  for (int n = 0; n < 250; ++n) {
    for (std::int64_t s = 0; s < 2; ++s)
      ASSERT_EQ(loader.num_tokens(s), tokens[static_cast<std::size_t>(s)]) << "source " << s << " after " << n;
    for (const Sequence& sequence : loader.next_step(1))
      tokens[static_cast<std::size_t>(sequence.source)] += std::ssize(sequence.tokens);
  }
  EXPECT_GT(loader.epochs(1), 2);
}

TEST(TrainLoader, TellsWhatARemovedSourceHasGivenUntilItComesBack) {
  TrainLoader both = two_sources();
  both.next_step(30);
  const std::int64_t sequences = both.num_sequences(1), tokens = both.num_tokens(1);
  const double epochs = both.epochs(1);
  EXPECT_TRUE(both.removed().empty());
  TrainLoader alone({{counting_dataset("domain", random_lengths(1, 37), 1), 3}},
                    {.seq_len = 16, .eos = kEos, .seed = 5});
  alone.load_state(both.state(), "state", OtherMixture::kAllowed);
  alone.next_step(7);
  ASSERT_EQ(alone.removed().size(), 1U);
  const RemovedSource removed = alone.removed().front();
  EXPECT_EQ(removed.name, "replay");
  EXPECT_EQ(removed.sequences, sequences);
  EXPECT_EQ(removed.tokens, tokens);
  EXPECT_DOUBLE_EQ(removed.epochs, epochs);
  EXPECT_GT(removed.tokens, 0);
  TrainLoader again = two_sources();
  again.load_state(alone.state(), "state", OtherMixture::kAllowed);
  EXPECT_TRUE(again.removed().empty());
  EXPECT_EQ(again.num_tokens(1), tokens);
}

TEST(TrainLoader, ContinuesFromAnyPositionAcrossLimits) {
  TrainLoader loader = limited_sources();
  const auto run = limited_sources().next_step(260);
  for (std::size_t n = 0; n < 200; ++n) {
    TrainLoader resumed = limited_sources();
    resumed.load_state(parse_json(loader.state().dump(), "state"), "state");
    const auto rest = resumed.next_step(60);
    ASSERT_TRUE(std::equal(rest.begin(), rest.end(), run.begin() + static_cast<long>(n))) << "after " << n;
    EXPECT_EQ(loader.next_step(1).front(), run[n]);
  }
  const auto refusal =
      message_of<ConfigError>([&] { limited_sources(std::nullopt, 400).load_state(loader.state(), "checkpoint-9"); });
  EXPECT_THAT(refusal, AllOf(HasSubstr("source \"domain\": its limit of sequences is null now, but was "),
                             HasSubstr("source \"replay\": its limit of sequences is 25 now, but was 18"),
                             testing::Not(HasSubstr("\"rest\""))));
}

TEST(TrainLoader, ReadsNoMoreEpochsThanTheFirstSourceMayGive) {
  const TrainLoader loader = limited_sources();
  EXPECT_GT(loader.sequences_for_epochs(1.5), loader.sequences_for_epochs(1));
  EXPECT_THAT(message_of<ConfigError>([&] { loader.sequences_for_epochs(2); }),
              Says("epochs is 2...source \"domain\" (epochs, max_tokens)...1.5"));
}

TEST(TrainLoader, TemperatureEvensOutSharesThatFollowFromSize) {
  const auto loader = [](double temperature) {
    return TrainLoader({{.dataset = counting_dataset("large", {900})}, {.dataset = counting_dataset("small", {100})}},
                       {.seq_len = 10, .temperature = temperature});
  };
  EXPECT_DOUBLE_EQ(loader(1).share(0), 0.9);
  EXPECT_DOUBLE_EQ(loader(2).share(0), 0.75) << "30 to 10";
  EXPECT_DOUBLE_EQ(loader(0.5).share(0), 81.0 / 82);
  EXPECT_NEAR(loader(1e6).share(0), 0.5, 1e-5);
}

TEST(TrainLoader, NamesTheTemperatureThatLeavesASourceNothing) {
  const auto loader = [](std::int64_t large, std::int64_t small, double temperature) {
    return TrainLoader(
        {{.dataset = counting_dataset("large", {large})}, {.dataset = counting_dataset("small", {small})}},
        {.seq_len = 10, .temperature = temperature});
  };
  EXPECT_DOUBLE_EQ(loader(8000, 8000, 0.001).share(0), 0.5) << "tokens^1000 is beyond a double";
  EXPECT_NEAR(loader(8000, 7000, 0.01).share(1), std::pow(7.0 / 8, 100), 1e-10);
  EXPECT_THAT(message_of<ConfigError>([&] { loader(8000, 80, 0.01); }),
              AllOf(Says("source \"small\"...data.temperature 0.01...higher"), testing::Not(HasSubstr("\"large\""))));
}

TEST(TrainLoader, RefusesATagThatFillsASequence) {
  const auto loader = [](std::int64_t tag) {
    return TrainLoader({{.dataset = counting_dataset("a", {50}),
                         .tag = {.ids = Ids(static_cast<std::size_t>(tag), 7), .position = 1}}},
                       {.seq_len = 8, .eos = kEos});
  };
  for (const Sequence& sequence : loader(6).next_step(loader(6).sequences_per_epoch(0)))
    EXPECT_GT(sequence.num_targets(), 0);
  EXPECT_THAT(message_of<ConfigError>([&] { loader(7); }),
              Says("source \"a\": its tag has 7 tokens...fewer than seq_len - 1, which is 7"));
}

TEST(TrainLoader, ReportsLimitsThatAllowNothing) {
  TrainSource a{.dataset = counting_dataset("a", {50})}, b{.dataset = counting_dataset("b", {50})}, c = b;
  a.epochs = 0;
  b.max_tokens = 0;
  c = {.dataset = counting_dataset("c", {50})};
  c.epochs = std::nan("");
  EXPECT_THAT(message_of<ConfigError>([&] { TrainLoader({a, b, c}, {.seq_len = 8, .temperature = 0}); }),
              AllOf(HasSubstr("source \"a\": epochs is 0; expected a positive"),
                    HasSubstr("source \"b\": max_tokens is 0; expected a positive"),
                    HasSubstr("source \"c\": epochs is nan"), HasSubstr("the temperature is 0; expected a positive")));
  b.max_tokens = 7;
  EXPECT_THAT(message_of<ConfigError>([&] { TrainLoader({b}, {.seq_len = 8}); }),
              HasSubstr("source \"b\": max_tokens is 7; expected at least a sequence, 8 tokens"));
}

TEST(TrainLoader, GivesAtLeastASequenceForTheSmallestNumberOfEpochs) {
  TrainSource a{.dataset = counting_dataset("a", {50})};
  a.epochs = 1e-300;
  EXPECT_EQ(TrainLoader({a}, {.seq_len = 8}).max_sequences(), 1);
}

TEST(TrainLoader, PrintsTheMixture) {
  const std::string table = format_mixture(two_sources());
  EXPECT_THAT(table, AllOf(HasSubstr("domain"), HasSubstr("replay"), HasSubstr("75.00%"), HasSubstr("25.00%")));
}

}  // namespace
}  // namespace adept::data
