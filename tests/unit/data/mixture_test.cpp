#include "adept/data/mixture.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "adept/core/random.h"
#include "adept/data/train_loader.h"
#include "data_test_util.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using Point = WeightSchedule::Point;

double uniform(std::uint64_t seed, std::uint64_t counter) {
  return random_uniform(seed, RandomStream::kSampling, counter);
}

TEST(WeightSchedule, IsLinearBetweenItsPointsAndConstantOutside) {
  const WeightSchedule schedule(std::vector<Point>{{0.2, 1}, {0.6, 5}, {0.8, 0}});
  EXPECT_EQ(schedule.at(0), 1);
  EXPECT_EQ(schedule.at(0.2), 1);
  EXPECT_DOUBLE_EQ(schedule.at(0.3), 2);
  EXPECT_DOUBLE_EQ(schedule.at(0.7), 2.5);
  EXPECT_EQ(schedule.at(1), 0);
  EXPECT_EQ(schedule.max(), 5);
  EXPECT_EQ(schedule.to_json().dump(), "[[0.2,1.0],[0.6,5.0],[0.8,0.0]]");
  EXPECT_EQ(WeightSchedule(3).to_json().dump(), "3.0");
  EXPECT_THROW(WeightSchedule(std::vector<Point>{}), InternalError);
  EXPECT_THROW(WeightSchedule(std::vector<Point>{{0.5, 1}, {0.5, 2}}), InternalError);
}

struct RandomMixture {
  std::vector<MixturePart> parts;
  MixtureSpan span;
};

// Some weights constant, some changing (also to and from 0), some limits.
RandomMixture random_mixture(std::uint64_t seed) {
  RandomMixture mixture{.parts = {}, .span = {.begin = 0, .end = 400}};
  const auto num_parts = 2 + seed % 4;
  for (std::uint64_t s = 0; s < num_parts; ++s) {
    MixturePart part{.weight = 0.1 + uniform(seed, 100 * s)};
    if (s > 0 && uniform(seed, 100 * s + 1) < 0.7) {
      std::vector<Point> points;
      for (std::uint64_t i = 0; i < 2 + seed % 3; ++i) {
        const double value = uniform(seed, 100 * s + 10 + i);
        points.push_back({static_cast<double>(i) / static_cast<double>(1 + seed % 3), value < 0.3 ? 0 : value});
      }
      points.back().value += points.front().value == 0 ? 1 : 0;
      part.weight = WeightSchedule(points);
    }
    if (s > 0 && uniform(seed, 100 * s + 2) < 0.3)
      part.limit = 1 + static_cast<std::int64_t>(60 * uniform(seed, 100 * s + 3));
    mixture.parts.push_back(part);
  }
  return mixture;
}

// Shares by the definition: linear between the points of all schedules, of the sources below their limits.
std::vector<double> shares_at(const RandomMixture& mixture, const std::vector<double>& amounts, double position) {
  const auto is_left = [&](std::size_t s) { return amounts[s] < static_cast<double>(mixture.parts[s].limit) - 1e-6; };
  const auto shares_of = [&](double progress) {
    std::vector<double> shares(amounts.size(), 0.0);
    for (std::size_t s = 0; s < shares.size(); ++s) shares[s] = is_left(s) ? mixture.parts[s].weight.at(progress) : 0;
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    for (double& share : shares) share /= sum;
    return shares;
  };
  std::set<double> points = {0.0, 1.0};
  for (const MixturePart& part : mixture.parts) part.weight.add_progresses(points);
  const double progress = std::min(1.0, (position - mixture.span.begin) / (mixture.span.end - mixture.span.begin));
  const auto after = points.lower_bound(progress);
  if (after == points.begin()) return shares_of(*after);
  const double low = *std::prev(after), high = *after;
  std::vector<double> shares = shares_of(low);
  const std::vector<double> ends = shares_of(high);
  for (std::size_t s = 0; s < shares.size(); ++s)
    shares[s] = std::lerp(shares[s], ends[s], (progress - low) / (high - low));
  return shares;
}

TEST(Mixture, GivesTheIntegralOfTheShares) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const RandomMixture random = random_mixture(seed);
    const Mixture mixture(random.parts, random.span);
    std::vector<double> amounts(random.parts.size(), 0.0);
    constexpr double step = 1.0 / 64;
    for (double position = 0; position < 440; position += step) {
      const auto shares = shares_at(random, amounts, position + step / 2);
      for (std::size_t s = 0; s < shares.size(); ++s) amounts[s] += step * shares[s];
      if (std::fmod(position + step, 10) != 0) continue;
      double sum = 0;
      for (std::size_t s = 0; s < shares.size(); ++s) {
        ASSERT_NEAR(mixture.amount(s, position + step), amounts[s], 0.1) << "seed " << seed << ", source " << s;
        sum += mixture.amount(s, position + step);
      }
      ASSERT_NEAR(sum, position + step, 1e-9 * sum);
    }
  }
}

TEST(Mixture, KnowsWhereAnAmountIsGiven) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const RandomMixture random = random_mixture(seed);
    const Mixture mixture(random.parts, random.span);
    for (std::size_t s = 0; s < random.parts.size(); ++s)
      for (double position = 0; position <= 500; position += 3.7) {
        const double amount = mixture.amount(s, position);
        const double found = mixture.position(s, amount);
        ASSERT_NEAR(mixture.amount(s, found), amount, 1e-6) << "seed " << seed << ", source " << s;
      }
  }
}

TEST(Mixture, NeverGivesMoreOfASourceWhoseWeightFallsToZero) {
  const Mixture mixture({{.weight = 1}, {.weight = WeightSchedule(std::vector<Point>{{0, 1}, {0.5, 0}})}},
                        {.begin = 0, .end = 80});
  EXPECT_DOUBLE_EQ(mixture.amount(1, 80), 10);  // half of 40, falling to 0: a quarter
  EXPECT_DOUBLE_EQ(mixture.position(1, 10), 40);
  EXPECT_EQ(mixture.position(1, 10.5), std::numeric_limits<double>::infinity());
}

TEST(Mixture, OfConstantWeightsDoesNotDependOnTheSpan) {
  const std::vector<MixturePart> parts = {{.weight = 3}, {.weight = 1, .limit = 7}};
  const Mixture a(parts), b(parts, {.begin = 5, .end = 20});
  for (double position = 0; position < 60; position += 0.3)
    for (const std::size_t s : {0, 1}) EXPECT_EQ(a.amount(s, position), b.amount(s, position));
}

TrainSource source_of(const std::string& name, WeightSchedule weight, std::int32_t first_id = 1,
                      std::int64_t documents = 40) {
  return {
      .dataset = counting_dataset(name, std::vector<std::int64_t>(static_cast<std::size_t>(documents), 7), first_id),
      .weight = std::move(weight)};
}

TrainLoader falling_replay(std::int64_t last, double end_weight = 0) {
  TrainLoader loader({source_of("domain", 1),
                      source_of("replay", WeightSchedule(std::vector<Point>{{0, 1}, {1, end_weight}}), 100'000)},
                     {.seq_len = 8, .eos = 0});
  if (last > 0) loader.plan(0, last);
  return loader;
}

TEST(MixtureSchedule, IsFollowedWithinOneSequence) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    const RandomMixture random = random_mixture(seed);
    std::vector<TrainSource> sources;
    for (std::size_t s = 0; s < random.parts.size(); ++s) {
      sources.push_back(source_of("s" + std::to_string(s), random.parts[s].weight));
      if (random.parts[s].limit != MixturePart::kNoLimit) sources.back().max_tokens = 8 * random.parts[s].limit;
    }
    TrainLoader loader(sources, {.seq_len = 8, .eos = 0});
    loader.plan(0, 400);
    const Mixture ideal(random.parts, random.span);
    for (std::int64_t n = 1; n <= 450; ++n) {
      loader.next_step(1);
      for (std::size_t s = 0; s < sources.size(); ++s)
        ASSERT_LT(std::abs(static_cast<double>(loader.num_sequences(static_cast<std::int64_t>(s))) -
                           ideal.amount(s, static_cast<double>(n))),
                  1 + 1e-6)
            << "seed " << seed << ", source " << s << " after " << n;
    }
  }
}

TEST(MixtureSchedule, ContinuesFromAnyPositionAsIfNeverStopped) {
  TrainLoader loader = falling_replay(120);
  const auto run = falling_replay(120).next_step(120);
  for (std::size_t n = 0; n < 120; ++n) {
    TrainLoader resumed = falling_replay(0);
    resumed.load_state(parse_json(loader.state().dump(), "state"), "state");
    resumed.plan(0, 120);
    const auto rest = resumed.next_step(120 - static_cast<std::int64_t>(n));
    ASSERT_TRUE(std::equal(rest.begin(), rest.end(), run.begin() + static_cast<long>(n))) << "after " << n;
    loader.next_step(1);
  }
}

TEST(MixtureSchedule, FollowsTheNewScheduleIfTheLengthChanges) {
  TrainLoader loader = falling_replay(100);
  loader.next_step(50);
  const std::int64_t replay_before = loader.num_sequences(1);
  TrainLoader longer = falling_replay(0);
  longer.load_state(loader.state(), "state");
  longer.plan(0, 1000);
  longer.next_step(950);
  // Of shares from 1/2 to 0, the part from progress 0.05 on.
  EXPECT_NEAR(static_cast<double>(longer.num_sequences(1) - replay_before), 1000 * 0.25 * 0.95 * 0.95, 1.5);
}

TEST(MixtureSchedule, CountsEpochsOfTheFirstSource) {
  for (const double epochs : {0.5, 1.0, 2.5}) {
    const std::int64_t n = falling_replay(0).sequences_for_epochs(epochs);
    TrainLoader loader = falling_replay(n);
    loader.next_step(n);
    EXPECT_NEAR(loader.epochs(0), epochs, 1.5 / 40);
    EXPECT_NEAR(static_cast<double>(n), 40 * epochs / 0.75, 2) << "three quarters are from the first source";
    TrainLoader resumed = falling_replay(n);
    resumed.next_step(n / 2);
    TrainLoader same = falling_replay(0);
    same.load_state(resumed.state(), "state");
    EXPECT_EQ(same.sequences_for_epochs(epochs), n) << "the plan does not move";
    EXPECT_LT(same.sequences_for_epochs(epochs / 8), same.num_sequences()) << "fewer than were read";
  }
}

TEST(OtherMixture, ContinuesAfterWhatEachSourceHasGiven) {
  const auto with = [](double domain, std::optional<double> replay, std::optional<double> extra) {
    std::vector<TrainSource> sources = {source_of("domain", domain)};
    if (replay) sources.push_back(source_of("replay", *replay, 100'000));
    if (extra) sources.push_back(source_of("extra", *extra, 200'000));
    return TrainLoader(sources, {.seq_len = 8, .eos = 0});
  };
  std::map<std::string, std::multiset<std::int32_t>> given;
  const auto read = [&](TrainLoader& loader, std::int64_t n) {
    for (const Sequence& sequence : loader.next_step(n))
      given[loader.source_name(sequence.source)].insert(sequence.tokens.front());
  };
  TrainLoader loader = with(3, 1, std::nullopt);
  read(loader, 20);
  TrainLoader without = with(3, std::nullopt, 2);  // replay is removed, another source added
  without.load_state(loader.state(), "state", OtherMixture::kAllowed);
  EXPECT_EQ(without.num_sequences(), 20);
  read(without, 10);
  EXPECT_EQ(without.num_sequences(0), 15 + 6);
  EXPECT_EQ(without.num_sequences(1), 4);
  TrainLoader again = with(1, 1, 1);  // replay comes back
  again.load_state(parse_json(without.state().dump(), "state"), "state", OtherMixture::kAllowed);
  EXPECT_EQ(again.num_sequences(1), 5);
  read(again, 45);
  for (const auto& [name, tokens] : given)
    for (const std::int32_t token : tokens) EXPECT_EQ(tokens.count(token), 1U) << name << " repeats";
  EXPECT_EQ(given["replay"].size(), 20U);
  TrainLoader resumed = with(1, 1, 1);
  resumed.load_state(parse_json(again.state().dump(), "state"), "state");
  EXPECT_EQ(resumed.next_step(30), again.next_step(30)) << "the new mixture is now that of the training";
}

TEST(OtherMixture, IsRefusedUnlessItIsAllowedAndSaysHow) {
  TrainLoader loader = falling_replay(100);
  loader.next_step(10);
  TrainLoader other = falling_replay(100, 0.5);
  EXPECT_THAT(
      message_of<ConfigError>([&] { other.load_state(loader.state(), "checkpoint-9"); }),
      AllOf(HasSubstr("checkpoint-9"), HasSubstr("source \"replay\": its share"), HasSubstr("--allow-changed data")));
  other.load_state(loader.state(), "checkpoint-9", OtherMixture::kAllowed);
  EXPECT_EQ(other.num_sequences(), 10);
}

TEST(OtherMixture, IsRefusedForChangedText) {
  TrainLoader loader = falling_replay(100);
  loader.next_step(10);
  TrainLoader changed({source_of("domain", 1, 5), source_of("replay", 1, 100'000)}, {.seq_len = 8, .eos = 0});
  EXPECT_THAT(message_of<ConfigError>([&] { changed.load_state(loader.state(), "s", OtherMixture::kAllowed); }),
              AllOf(HasSubstr("source \"domain\": its data (text, tokenizer, tag or excluded documents) has changed"),
                    HasSubstr("another name"), Not(HasSubstr("--allow-changed"))));
  TrainLoader longer({source_of("domain", 1), source_of("replay", 1, 100'000)}, {.seq_len = 9, .eos = 0});
  EXPECT_THAT(message_of<ConfigError>([&] { longer.load_state(loader.state(), "s", OtherMixture::kAllowed); }),
              AllOf(HasSubstr("seq_len is 9 now, but was 8"), Not(HasSubstr("--allow-changed"))));
}

TEST(OtherMixture, RefusesADamagedState) {
  TrainLoader loader = falling_replay(100);
  loader.next_step(10);
  const Json good = loader.state();
  const auto damage = [&](const std::string& pointer, const Json& value) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    return message_of<DataError>([&] { falling_replay(100).load_state(bad, "s"); });
  };
  EXPECT_THAT(damage("/schedule", 3), HasSubstr("schedule"));
  EXPECT_THAT(damage("/schedule", {5, 5}), HasSubstr("schedule"));
  EXPECT_THAT(damage("/schedule", {-1, 5}), HasSubstr("schedule"));
  EXPECT_THAT(damage("/anchor", 3), HasSubstr("do not sum"));
  EXPECT_THAT(damage("/sources/domain/anchor", 30), HasSubstr("is inconsistent"));
  EXPECT_THAT(damage("/removed", 3), HasSubstr("not the state of a data loader"));
}

}  // namespace
}  // namespace adept::data
