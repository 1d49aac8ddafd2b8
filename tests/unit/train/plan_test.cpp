// Which keys a training may be resumed with.
#include "adept/train/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/config/schema.h"
#include "adept/core/error.h"
#include "tests/support/reads.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using test::Reads;
using test::Says;
using ::testing::HasSubstr;

namespace changing {

using config::describe;

// Gives the n-th field of a configuration another value; the lists that are empty get an item.
class Changer {
 public:
  explicit Changer(int n) : left_(n) {}
  std::string key;  // of the field that was changed; empty: there are not so many
  unsigned decided = 0;

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view, const config::FieldOptions& options = {}) {
    const std::string before = path_;
    const unsigned before_decided = of_section_;
    path_ += (path_.empty() ? "" : ".") + std::string(name);
    if (options.decides != 0) of_section_ = options.decides;
    if constexpr (config::kIsSection<T>) {
      describe(*this, member);
    } else if (left_-- == 0) {
      change(member);
      if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::optional<std::string>>)
        if (options.names != nullptr) member = options.names().at(1);  // the defaults are the first
      key = path_;
      decided = of_section_;
    }
    path_ = before;
    of_section_ = before_decided;
  }

 private:
  static void change(bool& value) { value = !value; }
  static void change(std::int64_t& value) { ++value; }
  static void change(double& value) { value = value / 2 + 0.0625; }
  static void change(data::WeightSchedule& value) { value = value.at(0) / 2 + 0.0625; }
  static void change(std::string& value) { value += "x"; }
  template <typename T>
  static void change(std::optional<T>& value) {
    if (!value) value.emplace();
    change(*value);
  }
  template <typename T>
  static void change(std::vector<T>& value) {
    value.emplace_back();
  }
  template <typename Enum>
    requires std::is_enum_v<Enum>
  static void change(Enum& value) {
    std::size_t i = 0;
    while (kChoices<Enum>[i].value != value) ++i;
    value = kChoices<Enum>[(i + 1) % kChoices<Enum>.size()].value;
  }

  int left_;
  std::string path_;
  unsigned of_section_ = 0;
};

}  // namespace changing

TEST(Length, IsLimitedByTheSources) {
  data::TrainSource a{.dataset = dataset_of("a", {15}, 1)}, b{.dataset = dataset_of("b", {15}, 2)};
  a.epochs = 2;
  b.max_tokens = 24;
  const data::TrainLoader loader({a, b}, {.seq_len = 8, .eos = 2});
  TrainOptions options;
  options.max_steps = 3;
  options.batch_size = 2;
  EXPECT_EQ(training_length(options, loader, train::start_of(loader), 0).sequences, 6);
  options.max_steps = 4;
  EXPECT_THAT(test::message_of<ConfigError>([&] { training_length(options, loader, train::start_of(loader), 0); }),
              Reads("train.max_steps: found 4...8 sequences...(epochs, max_tokens)...7; expected at most 3..."));
  options.max_steps.reset();
  options.num_train_epochs = 2;
  EXPECT_EQ(training_length(options, loader, train::start_of(loader), 0).sequences, 7);
  options.num_train_epochs = 2.5;
  EXPECT_THAT(test::message_of<ConfigError>([&] { training_length(options, loader, train::start_of(loader), 0); }),
              Says("2.5...source \"a\" (epochs, max_tokens)...2; expected at most"));
}

TEST(Resume, IsRefusedForEveryKeyThatDecidesTheTrainingAndForNoOther) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 2;
  train(config, model.expanded, dir / "adept");
  config::RunConfig lora = config, last = config;
  lora.method = Method::kLora;
  last.method = Method::kTopKLayers;
  last.top_k_layers.num_layers = 1;
  lora.unit_lr.policy = last.unit_lr.policy = "uniform";
  lora.lora.alpha = 16;
  train(lora, model.base, dir / "lora");
  train(last, model.base, dir / "top_k_layers");
  int changed = 0;
  for (int n = 0;; ++n) {
    changing::Changer changer(n);
    config::RunConfig nothing;
    describe(changer, nothing);
    if (changer.key.empty()) break;
    SCOPED_TRACE(changer.key);
    const bool is_of_lora = changer.key.starts_with("lora."), is_of_last = changer.key.starts_with("top_k_layers.");
    config::RunConfig now = is_of_lora ? lora : is_of_last ? last : config;
    const fs::path run = dir / (is_of_lora ? "lora" : is_of_last ? "top_k_layers" : "adept");
    check_same_training(run, now, std::nullopt);
    changing::Changer again(n);
    describe(again, now);
    const auto check = [&] { check_same_training(run, now, std::nullopt); };
    if ((changer.decided & config::decides::kTraining) != 0) {
      const std::string name = changer.key == "train.batch_size" || changer.key == "train.grad_accum"
                                   ? "train.batch_size x grad_accum x processes"
                                   : changer.key;
      EXPECT_THAT(test::message_of<ConfigError>(check), HasSubstr("\n  " + name));
      ++changed;
    } else {
      check();
    }
  }
  EXPECT_GT(changed, 20);
}

TEST(Resume, WithAnotherMethodNamesTheMethodAlone) {
  const test::TemporaryDirectory dir;
  const auto model = test::write_expanded_model(dir.path(), "llama", {1, 3});
  config::RunConfig config = small_config();
  config.train.max_steps = 2;
  train(config, model.expanded, dir.path());
  config.method = Method::kFull;
  config.unit_lr.policy = "uniform";
  config.train.max_steps = 1;
  const std::string expected = "belongs to a different run:\n  method: was \"adept\", now \"full\"\nResume";
  const auto of_base = io::model_identity(io::WeightFiles::open(model.base));
  EXPECT_THAT(test::message_of<ConfigError>([&] { check_same_training(dir.path(), config, of_base); }),
              HasSubstr(expected));
  EXPECT_THAT(test::message_of<ConfigError>([&] { train(config, model.base, dir.path(), /*resume=*/true); }),
              HasSubstr(expected));
}

}  // namespace
}  // namespace adept::train
