// Measurements that are interrupted keep what is done, say so, and end as those that were not.
#include "adept/run/measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/captured_log.h"
#include "tests/support/counted_operations.h"
#include "tests/support/reads.h"
#include "tests/support/tiny_models.h"

namespace adept::run {
namespace {

using test::Reads;
using ::testing::HasSubstr;

// A model with two copies that add something, and a cache.
struct Measurable {
  test::TemporaryDirectory dir;
  test::ExpandedModel expanded = test::write_expanded_model(dir.path(), "llama", {1, 3});
  ResultCache cache{dir / "results"};
  config::Compute compute{.dtype = config::DTypeChoice::kFp32};

  MeasuredModel model() const {
    return {expanded.expanded, io::model_identity(io::WeightFiles::open(expanded.expanded)), compute};
  }
};

std::vector<method::ProbeBatch> text(std::uint64_t seed) {
  return {{test::random_batch({8, 5}, seed)}, {test::random_batch({7}, seed + 1)}};
}

TEST(MeasureCopies, ThatIsInterruptedKeepsTheTextsBefore) {
  const Measurable m;
  test::CountedOperations operations;
  MeasuredModel model = m.model();
  const auto measure = [&](const char* name, std::uint64_t seed) {
    return measure_copies(model, m.expanded.expansion, name, text(seed), m.cache);
  };
  const Json first = measure("first", 1);
  EXPECT_THAT(operations.interruption(0, [&] { measure("second", 2); }).value_or("no interruption"),
              Reads("terminated (SIGTERM); saved ...before second; the same command continues..."));
  const test::CapturedLog log;
  EXPECT_EQ(measure("first", 1), first);
  EXPECT_THAT(log.text(), HasSubstr("copies     first: cached result from " + m.cache.directory().string()));
  measure("second", 2);
  EXPECT_THAT(log.text(), ::testing::Not(HasSubstr("second: cached result")));
}

TEST(ProbeLayers, ThatAreInterruptedSayWhatTheSameCommandDoes) {
  const Measurable m;
  MeasuredModel model = m.model();
  const std::vector<std::vector<method::ProbeBatch>> general = {text(1)};
  const std::vector<method::ProbeBatch> domain = text(3);
  const auto message_of = [&](const char* method) {
    const auto measure = [&](const ResultCache& cache) {
      probe_layers(model, "general", {general, domain}, {.methods = {method}, .num_lowest = 1}, cache);
    };
    test::CountedOperations operations;
    model.decoder();  // loads it, uncounted
    EXPECT_TRUE(operations.ends(-1, [&] { measure(ResultCache({})); }));
    return operations.interruption(operations.count() / 2, [&] { measure(m.cache); }).value_or("no interruption");
  };
  EXPECT_THAT(message_of("mask_out"), ::testing::MatchesRegex("terminated \\(SIGTERM\\); saved [01] of 2 batches .*"
                                                              "the same command continues.*"));
  EXPECT_THAT(message_of("gain"), Reads("terminated (SIGTERM); nothing ...probe ...the same command starts..."));
}

TEST(MeasureDial, ThatIsInterruptedKeepsItsPointsAndEndsTheSame) {
  const Measurable m;
  MeasuredModel model = m.model();
  const auto measure = [&](const ResultCache& cache) {
    return measure_dial(model, m.expanded.expansion, text(1), text(3),
                        {.points = 5, .max_general_rise = {}, .general_weight = 1.0}, cache);
  };
  test::CountedOperations operations;
  std::optional<method::Dial> whole;
  ASSERT_TRUE(operations.ends(-1, [&] { whole = measure(ResultCache({})); }));
  const std::int64_t total = operations.count();
  const auto begun = operations.interruption(0, [&] { measure(m.cache); });
  ASSERT_TRUE(begun);
  EXPECT_THAT(*begun, HasSubstr("; saved 0 points of the dial; the same command continues from there"));
  const auto halfway = operations.interruption(total / 2, [&] { measure(m.cache); });
  ASSERT_TRUE(halfway);
  EXPECT_THAT(*halfway, ::testing::ContainsRegex("; saved [2-4] points of the dial"));
  const test::CapturedLog log;
  const method::Dial resumed = measure(m.cache);
  EXPECT_THAT(log.text(), ::testing::ContainsRegex("dial       [2-4] points: cached result"));
  EXPECT_EQ(method::to_json(resumed, m.expanded.expansion), method::to_json(*whole, m.expanded.expansion));
}

}  // namespace
}  // namespace adept::run
