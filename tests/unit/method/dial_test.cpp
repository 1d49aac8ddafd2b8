// Scaling what the copies add, and what each of them is worth.
#include "adept/method/beyond/dial.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "adept/core/error.h"
#include "adept/io/weight_files.h"
#include "adept/method/beyond/copies.h"
#include "adept/model/save.h"
#include "adept/model/torch_tensors.h"
#include "tests/support/forward_without.h"
#include "tests/support/tiny_models.h"
#include "tests/support/tolerance.h"

namespace adept::method {
namespace {

// An expanded model whose copies have outputs of their own, as after training.
struct TrainedModel {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  std::filesystem::path trained;

  explicit TrainedModel(const std::string& kind, DType stored = DType::kF32)
      : model(test::write_expanded_model(dir.path(), kind, {1, 3}, stored)) {
    const io::WeightFiles files = io::WeightFiles::open(model.expanded);
    model::Decoder decoder = test::load_decoder(model.expanded);
    std::vector<at::Tensor> moved;
    std::vector<io::TensorView> views;
    at::manual_seed(3);
    for (const std::string& name : files.names()) {
      io::TensorView view = files.at(name);
      std::int64_t layer = 0;
      std::string unit;
      if (model::split_layer_parameter_name(name, layer, unit) && (layer == 2 || layer == 5)) {
        const at::Tensor tensor = model::as_tensor(view, files.owner(name));
        moved.push_back((tensor + 0.05 * at::randn(tensor.sizes())).to(tensor.scalar_type()).contiguous());
        view = model::as_view(name, moved.back());
      }
      views.push_back(view);
    }
    trained = dir.path() / "trained";
    std::filesystem::create_directories(trained);
    io::write_weight_files(trained, views);
    for (const char* file : {"config.json", kExpansionManifest})
      std::filesystem::copy_file(model.expanded / file, trained / file);
  }
};

std::vector<ProbeBatch> text(std::uint64_t seed) {
  return {{test::random_batch({9, 4}, seed), 0},
          {test::random_batch({12}, seed + 1), 0},
          {test::random_batch({7, 8}, seed + 2), 1}};
}

at::Tensor logits_of(const model::Decoder& decoder) {
  const at::NoGradGuard no_grad;
  return decoder.logits(decoder.forward(test::random_batch({11, 6}, 3).input_ids, {}));
}

// Each source's mean loss, averaged.
double loss_of(const model::Decoder& decoder, const std::vector<ProbeBatch>& batches,
               const std::vector<int>& bypassed = {}) {
  const at::NoGradGuard no_grad;
  std::map<int, std::pair<double, double>> sums;
  for (const auto& [batch, source, weight] : batches) {
    const at::Tensor h = test::forward_without(bypassed, decoder, batch.input_ids, {});
    sums[source].first += decoder.loss_sum(h, batch.targets).item<double>();
    sums[source].second += static_cast<double>(batch.num_targets);
  }
  double mean = 0;
  for (const auto& [source, sum] : sums) mean += sum.first / sum.second / static_cast<double>(sums.size());
  return mean;
}

TEST(Dial, AtZeroIsTheBaseAndAtOneTheTrainedModelBitForBit) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const TrainedModel t(kind);
    const std::vector<double> zero = {0, 0}, one = {1, 1};
    export_dialed(t.trained, t.dir / "zero", t.model.expansion, zero, Json::object());
    export_dialed(t.trained, t.dir / "one", t.model.expansion, one, Json::object());
    const at::Tensor base = logits_of(test::load_decoder(t.model.base));
    EXPECT_TRUE(at::equal(logits_of(test::load_decoder(t.dir / "zero")), base));
    EXPECT_FALSE(at::equal(logits_of(test::load_decoder(t.trained)), base));
    const io::WeightFiles before = io::WeightFiles::open(t.trained), after = io::WeightFiles::open(t.dir / "one");
    for (const std::string& name : before.names())
      EXPECT_TRUE(std::ranges::equal(before.at(name).data, after.at(name).data)) << name;
  }
}

TEST(Dial, MeasuresWhatItExportsAndLeavesTheDecoderAsItWas) {
  const TrainedModel t("llama_biased_tied");
  model::Decoder decoder = test::load_decoder(t.trained);
  const auto before = test::parameters_of(decoder);
  const auto general = text(10), domain = text(20);
  const Dial dial = measure_dial(decoder, t.model.expansion, general, domain,
                                 {.points = 3, .max_general_rise = 100.0, .general_weight = {}}, Progress::silent());
  for (const auto& [name, value] : test::parameters_of(decoder)) EXPECT_TRUE(test::same_bits(value, before.at(name)));
  ASSERT_EQ(dial.curve.size(), 3U);
  EXPECT_EQ(dial.chosen.alphas, (std::vector<double>{1, 1})) << "the largest within the bound";
  for (const DialPoint& point : dial.curve) {
    const auto out = t.dir / fmt::format("alpha-{}", point.alphas[0]);
    export_dialed(t.trained, out, t.model.expansion, point.alphas, {{"any", "record"}});
    const model::Decoder exported = test::load_decoder(out);
    const double tolerance = test::tolerance(at::kFloat).values * point.general_loss;
    EXPECT_NEAR(point.general_loss, loss_of(exported, general), tolerance) << point.alphas[0];
    EXPECT_NEAR(point.domain_loss, loss_of(exported, domain), tolerance) << point.alphas[0];
    EXPECT_EQ(read_expansion(out).layers.size(), 2U);
    EXPECT_EQ(read_json(out / "adept_dial.json")["any"], "record");
  }
}

TEST(Dial, OfABf16ModelInFp32IsThatOfItsValuesInFp32) {
  const TrainedModel t("llama", DType::kBF16);
  model::Decoder narrow = test::load_decoder(t.trained), wide = test::load_decoder(t.trained, at::kFloat, true);
  const auto before = test::parameters_of(narrow);
  const auto curve = [&](model::Decoder& decoder) {
    return measure_dial(decoder, t.model.expansion, text(10), text(20),
                        {.points = 4, .max_general_rise = 100.0, .general_weight = {}}, Progress::silent())
        .curve;
  };
  const auto found = curve(narrow), expected = curve(wide);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(found[i].general_loss, expected[i].general_loss) << i;
    EXPECT_EQ(found[i].domain_loss, expected[i].domain_loss) << i;
  }
  for (const auto& [name, value] : test::parameters_of(narrow)) EXPECT_TRUE(test::same_bits(value, before.at(name)));
}

TEST(Dial, TakesTheLargestWithinTheBoundOrTheBestOfTheTradeOff) {
  const TrainedModel t("llama");
  model::Decoder decoder = test::load_decoder(t.trained);
  const auto general = text(10), domain = text(20);
  const auto with = [&](const DialOptions& options) {
    return measure_dial(decoder, t.model.expansion, general, domain, options, Progress::silent());
  };
  const Dial whole = with({.points = 6, .max_general_rise = 1e9, .general_weight = {}});
  const double base = whole.curve[0].general_loss;
  for (const double bound : {0.0, 0.002, 0.01, 0.03}) {
    const Dial dial = with({.points = 6, .max_general_rise = bound, .general_weight = {}});
    EXPECT_LE(dial.chosen.general_loss, base + bound);
    for (const DialPoint& point : whole.curve)
      EXPECT_TRUE(point.general_loss > base + bound || point.alphas[0] <= dial.chosen.alphas[0]) << bound;
  }
  for (const double weight : {0.0, 1.0, 50.0}) {
    const Dial dial = with({.points = 6, .max_general_rise = {}, .general_weight = weight});
    for (const DialPoint& point : whole.curve)
      EXPECT_GE(point.domain_loss + weight * point.general_loss,
                dial.chosen.domain_loss + weight * dial.chosen.general_loss);
  }
}

TEST(Dial, SearchesEachCopyForSomethingBetter) {
  const TrainedModel t("qwen3");
  model::Decoder decoder = test::load_decoder(t.trained);
  const auto general = text(10), domain = text(20);
  const DialOptions common = {.points = 5, .max_general_rise = {}, .general_weight = 0.5};
  DialOptions each = common;
  each.per_copy = true;
  const auto cost = [](const DialPoint& p) { return p.domain_loss + 0.5 * p.general_loss; };
  const Dial one = measure_dial(decoder, t.model.expansion, general, domain, common, Progress::silent());
  const Dial two = measure_dial(decoder, t.model.expansion, general, domain, each, Progress::silent());
  EXPECT_LE(cost(two.chosen), cost(one.chosen));
  // No single change of one copy is better.
  for (std::size_t copy = 0; copy < 2; ++copy)
    for (const double alpha : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      std::vector<double> alphas = two.chosen.alphas;
      alphas[copy] = alpha;
      export_dialed(t.trained, t.dir / "try", t.model.expansion, alphas, Json::object(), io::OnExisting::kReplace);
      const model::Decoder tried = test::load_decoder(t.dir / "try");
      EXPECT_GE(loss_of(tried, domain) + 0.5 * loss_of(tried, general), cost(two.chosen) - 1e-5);
    }
}

TEST(Dial, SearchesEachCopyUnderABoundThatTheCommonAlphaStandsOn) {
  int bounded = 0, better = 0;
  for (const std::string& kind : test::model_kinds())
    for (const int seed : {10, 20, 30}) {
      const TrainedModel t(kind);
      model::Decoder decoder = test::load_decoder(t.trained);
      const auto general = text(seed), domain = text(seed + 10);
      const auto with = [&](double bound, bool per_copy) {
        return measure_dial(decoder, t.model.expansion, general, domain,
                            {.points = 11, .max_general_rise = bound, .general_weight = {}, .per_copy = per_copy},
                            Progress::silent());
      };
      const Dial whole = with(1e9, false);
      const double rise = whole.curve[5].general_loss - whole.curve[0].general_loss;
      // The outputs of these copies are random, so that the loss of a text can rise or fall.
      if (rise <= 0 || whole.curve[10].general_loss <= whole.curve[5].general_loss ||
          whole.curve[5].domain_loss >= whole.curve[0].domain_loss)
        continue;
      ++bounded;
      const Dial common = with(rise, false), each = with(rise, true);
      EXPECT_LE(each.chosen.general_loss, whole.curve[0].general_loss + rise) << kind;
      EXPECT_LE(each.chosen.domain_loss, common.chosen.domain_loss) << kind;
      better += each.chosen.domain_loss < common.chosen.domain_loss;
    }
  EXPECT_GT(better, 0) << "of " << bounded << "; single moves alone never leave a point on the bound";
}

TEST(Dial, RefusesTextWithoutAPredictedToken) {
  const TrainedModel t("llama");
  model::Decoder decoder = test::load_decoder(t.trained);
  const std::vector<ProbeBatch> nothing = {{test::random_batch({1, 1})}};
  const auto refusal = [&](const std::vector<ProbeBatch>& general, const std::vector<ProbeBatch>& domain) {
    return test::message_of<DataError>([&] {
      measure_dial(decoder, t.model.expansion, general, domain, {.max_general_rise = 0.1, .general_weight = {}},
                   Progress::silent());
    });
  };
  EXPECT_THAT(refusal(nothing, text(1)), testing::HasSubstr("general text: found no token to predict"));
  EXPECT_THAT(refusal(text(1), {}), testing::HasSubstr("domain text: found no token to predict"));
}

TEST(InspectCopies, BypassesEachAndMeasuresWhatItAdds) {
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const TrainedModel t(kind);
    const model::Decoder decoder = test::load_decoder(t.trained);
    const auto batches = text(30);
    const CopiesOnText report = inspect_copies(decoder, t.model.expansion, batches, Progress::silent());
    const double loss = loss_of(decoder, batches), tolerance = 2 * test::tolerance(at::kFloat).values * loss;
    EXPECT_NEAR(report.loss, loss, tolerance);
    ASSERT_EQ(report.copies.size(), 2U);
    for (const CopyReport& copy : report.copies) {
      EXPECT_NEAR(copy.loss_rise, loss_of(decoder, batches, {copy.layer.index}) - loss, tolerance);
      const at::NoGradGuard no_grad;
      std::map<int, std::pair<double, double>> sums;
      for (const auto& [batch, source, weight] : batches) {
        const at::Tensor h = decoder.layers(decoder.embed(batch.input_ids), 0, copy.layer.index, {});
        const at::Tensor after = decoder.layer(h, copy.layer.index, {});
        for (std::int64_t b = 0; b < batch.rows(); ++b)
          for (std::int64_t position = 0; position < batch.targets.values.size(1); ++position)
            if (batch.targets.values[b][position].item<std::int64_t>() >= 0) {
              sums[source].first += ((after - h)[b][position].norm() / h[b][position].norm()).item<double>();
              sums[source].second += 1;
            }
      }
      const double expected = 0.5 * (sums[0].first / sums[0].second + sums[1].first / sums[1].second);
      EXPECT_NEAR(copy.contribution, expected, 1e-4 * expected);
      EXPECT_GT(copy.contribution, 1e-3);
    }
    const CopiesOnText untrained =
        inspect_copies(test::load_decoder(t.model.expanded), t.model.expansion, batches, Progress::silent());
    for (const CopyReport& copy : untrained.copies) {
      EXPECT_EQ(copy.contribution, 0);
      EXPECT_EQ(copy.loss_rise, 0);
    }
  }
}

}  // namespace
}  // namespace adept::method
