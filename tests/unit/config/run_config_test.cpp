#include "adept/config/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adept/config/types.h"
#include "adept/core/error.h"
#include "tests/support/captured_log.h"
#include "tests/support/environment.h"
#include "tests/support/reads.h"
#include "tests/unit/config/minimal_config.h"

namespace adept::config {
namespace {

using test::Reads;
using test::Says;
using testing::ElementsAre;
using testing::HasSubstr;

TEST(RunConfig, MinimalFileGetsEveryDefault) {
  const RunConfig config = parse(kMinimal);
  EXPECT_EQ(config.model, "base");
  EXPECT_EQ(config.seed, 42);
  EXPECT_EQ(config.compute.dtype, DTypeChoice::kAuto);
  EXPECT_EQ(config.data.train.at(0).paths, std::vector<std::string>{"med.txt"});
  EXPECT_EQ(config.data.train.at(0).weight, std::nullopt);
  EXPECT_EQ(config.expand.num_layers, 4);
  EXPECT_EQ(config.expand.strategy, "lowest");
  EXPECT_TRUE(config.expand.needs_scores());
  EXPECT_EQ(config.train.warmup_ratio, 0.03);
  EXPECT_EQ(config.train.warmup_steps, std::nullopt);
  EXPECT_EQ(config.train.num_train_epochs, 1.0);
  EXPECT_EQ(config.train.max_steps, std::nullopt);
}

TEST(RunConfig, OptionsOfTextAreReadAndWrittenAsTheyAre) {
  const std::string sources = R"(
model: base
output_dir: out
data:
  general: [{name: general, path: g.jsonl}]
  train:
    - {name: a, path: "@files.txt", template: "{question}\n\t{meta.answer} {{x}}: \"'#"}
    - {name: b, path: "-", format: arrow, split: train, messages_field: chat.messages, train_on: assistant}
    - name: c
      path: [c.md, d]
      format: text
      txt_record: line
)";
  const RunConfig config = parse(sources);
  EXPECT_THAT(config.data.train.at(0).paths, ElementsAre("@files.txt"));
  EXPECT_EQ(config.data.train.at(0).text_template, "{question}\n\t{meta.answer} {{x}}: \"'#");
  EXPECT_THAT(config.data.train.at(1).paths, ElementsAre("-"));
  EXPECT_EQ(config.data.train.at(1).format, "arrow");
  EXPECT_EQ(config.data.train.at(1).split, "train");
  EXPECT_EQ(config.data.train.at(0).train_on, data::TrainOn::kAll);
  EXPECT_EQ(config.data.train.at(1).messages_field, "chat.messages");
  EXPECT_EQ(config.data.train.at(1).train_on, data::TrainOn::kAssistant);
  const RunConfig again = parse(to_yaml(config));
  EXPECT_EQ(to_json(again), to_json(config)) << to_yaml(config);
}

TEST(RunConfig, SaysWhichOptionsOfTextContradictEachOther) {
  const auto problems = [](const std::string& options) {
    try {
      minimal_with({"data.train=[{name: a, path: p, " + options + "}]"});
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(problems("format: jsonl, text_field: a"), "");
  EXPECT_THAT(problems("text_field: a, template: '{b}'"),
              HasSubstr("data.train.0.template: found together with text_field"));
  EXPECT_THAT(problems("messages_field: a, template: '{b}'"),
              HasSubstr("data.train.0.messages_field: found together with template"));
  EXPECT_THAT(problems("format: parquet, txt_record: line"),
              HasSubstr("data.train.0.txt_record: found together with format: parquet"));
  EXPECT_THAT(problems("format: text, messages_field: m"), HasSubstr("data.train.0.messages_field: found together"));
  EXPECT_EQ(problems("messages_field: m, train_on: assistant"), "");
  EXPECT_THAT(problems("train_on: assistant"),
              HasSubstr("data.train.0.train_on: found assistant without messages_field"));
  EXPECT_THAT(problems("messages_field: m, train_on: user"), HasSubstr("data.train.0.train_on: "));
  EXPECT_THAT(problems("template: 'no field'"), HasSubstr("data.train.0.template: found no field"));
  EXPECT_THAT(problems("format: parket"), HasSubstr("did you mean parquet?"));
}

TEST(RunConfig, EveryKindOfValueIsRead) {
  const RunConfig config = parse(R"(
model: org/name
output_dir: "2024"
dtype: bfloat16
device: cuda
seq_len: 1_024
data:
  train:
    - name: med
      path: [a.txt, "b*.jsonl.gz"]
      text_field: body
      txt_record: paragraph
      on_bad_record: skip
      weight: 3
    - {name: replay, path: r, weight: .5}
  general: [{name: gen, path: g}]
  eval: [{name: held_out, path: h, role: domain}]
probe: {method: cumulative, max_tokens: 1e6}
expand: {after: [3, 7, 11]}
train: {learning_rate: 5e-4, lr_scheduler: wsd, warmup_steps: 10, max_steps: 100, weight_decay: 1}
unit_lr: {policy: uniform}
eval: {packed: yes}
)");
  EXPECT_EQ(config.output_dir, "2024");
  EXPECT_EQ(config.compute.dtype, DTypeChoice::kBf16);
  EXPECT_EQ(config.compute.device, Device::kCuda);
  EXPECT_EQ(config.seq_len, 1024);
  EXPECT_THAT(config.data.train.at(0).paths, ElementsAre("a.txt", "b*.jsonl.gz"));
  EXPECT_EQ(config.data.train.at(0).text_field, "body");
  EXPECT_EQ(config.data.train.at(0).txt_record, data::TxtRecord::kParagraph);
  EXPECT_EQ(config.data.train.at(0).on_bad_record, data::BadRecord::kSkip);
  EXPECT_EQ(config.data.train.at(0).weight, 3.0);
  EXPECT_EQ(config.data.train.at(1).weight, 0.5);
  EXPECT_EQ(config.data.eval.at(0).role, EvalRole::kDomain);
  EXPECT_EQ(config.probe.method, "cumulative");
  EXPECT_EQ(config.probe.max_tokens, 1'000'000);
  EXPECT_EQ(config.eval.max_tokens, 65'536) << "of each set, by default";
  EXPECT_THAT(config.expand.after, ElementsAre(3, 7, 11));
  EXPECT_EQ(config.expand.num_layers, std::nullopt);
  EXPECT_EQ(config.expand.strategy, "manual");
  EXPECT_FALSE(config.expand.needs_scores());
  EXPECT_EQ(config.train.learning_rate, 5e-4);
  EXPECT_EQ(config.train.lr_scheduler, optim::ScheduleKind::kWsd);
  EXPECT_EQ(config.train.warmup_steps, 10);
  EXPECT_EQ(config.train.warmup_ratio, std::nullopt);
  EXPECT_EQ(config.train.max_steps, 100);
  EXPECT_EQ(config.train.num_train_epochs, std::nullopt);
  EXPECT_EQ(config.train.adamw.weight_decay, 1.0);
  EXPECT_EQ(config.unit_lr.policy, "uniform");
  EXPECT_TRUE(config.eval.packed);
}

TEST(RunConfig, NumbersAreReadAsYamlUsersWriteThem) {
  for (const auto& [text, value] : std::vector<std::pair<std::string, double>>{
           {"5e-4", 5e-4}, {"5.0e-4", 5e-4}, {"5E-4", 5e-4}, {"+0.5", 0.5}, {"1", 1.0}, {".25", 0.25}, {"1_0.5", 10.5}})
    EXPECT_EQ(minimal_with({"train.learning_rate=" + text}).train.learning_rate, value) << text;
  for (const auto& [text, value] : std::vector<std::pair<std::string, std::int64_t>>{
           {"1000", 1000}, {"1_000", 1000}, {"+7", 7}, {"1e3", 1000}, {"12e+2", 1200}})
    EXPECT_EQ(minimal_with({"train.max_steps=" + text}).train.max_steps, value) << text;
  for (const char* text : {"true", "True", "TRUE", "yes", "Yes", "on", "ON"})
    EXPECT_TRUE(minimal_with({std::string("eval.packed=") + text}).eval.packed) << text;
  for (const char* text : {"false", "False", "no", "NO", "off", "Off"})
    EXPECT_FALSE(minimal_with({std::string("eval.packed=") + text}).eval.packed) << text;
}

TEST(RunConfig, AnchorsAliasesAndMergeKeysAreExpanded) {
  const RunConfig config = parse(R"(model: m
output_dir: o
data:
  train: [&med {name: med, path: med.txt, text_field: body}]
  general: [{<<: *med, name: gen}]
  eval: [{name: e, <<: [{path: first}, *med]}]
train: {learning_rate: &rate 1e-3, weight_decay: *rate}
)");
  EXPECT_EQ(config.data.general.at(0).name, "gen");
  EXPECT_EQ(config.data.general.at(0).text_field, "body");
  EXPECT_THAT(config.data.eval.at(0).paths, ElementsAre("first"));
  EXPECT_EQ(config.train.adamw.weight_decay, 1e-3);
}

TEST(RunConfig, EmptySectionMeansItsDefaults) {
  EXPECT_EQ(parse(std::string(kMinimal) + "train:\n  # learning_rate: 1\n").train.learning_rate, 2e-4);
}

TEST(RunConfig, LeadingTildeIsTheHomeFolder) {
  const test::ScopedVariable home("HOME", "/home/someone");
  const RunConfig config = minimal_with({"model=~/m", "output_dir='~'", "data.train.0.path=[~/a, b~]"});
  EXPECT_EQ(config.model, "/home/someone/m");
  EXPECT_EQ(config.output_dir, "/home/someone");
  EXPECT_THAT(config.data.train.at(0).paths, ElementsAre("/home/someone/a", "b~"));
}

TEST(Overrides, LaterOnesWinAndListsGrow) {
  const RunConfig config =
      minimal_with({"seed=1", "seed=2", "data.eval.0.name=first", "data.eval.0.path=a=b.txt", "data.eval.1.name=second",
                    "data.eval.1.path=[c, d]", "expand.after.0=3", "expand.after.1=5", "data.train.0.weight=null"});
  EXPECT_EQ(config.seed, 2);
  ASSERT_EQ(config.data.eval.size(), 2u);
  EXPECT_THAT(config.data.eval[0].paths, ElementsAre("a=b.txt"));
  EXPECT_THAT(config.data.eval[1].paths, ElementsAre("c", "d"));
  EXPECT_THAT(config.expand.after, ElementsAre(3, 5));
}

TEST(Overrides, PlainValuesAreTakenLiterally) {
  const RunConfig config = minimal_with({"model=a #1: *.txt", "output_dir=42", "data.train.0.path=*.txt"});
  EXPECT_EQ(config.model, "a #1: *.txt");
  EXPECT_EQ(config.output_dir, "42");
  EXPECT_THAT(config.data.train[0].paths, ElementsAre("*.txt"));
}

TEST(Overrides, CommasSeparateTheItemsOfAList) {
  EXPECT_THAT(minimal_with({"expand.after=3,7,11"}).expand.after, ElementsAre(3, 7, 11));
  EXPECT_THAT(minimal_with({"expand.after=3"}).expand.after, ElementsAre(3));
  EXPECT_THAT(minimal_with({"expand.exclude=0,1"}).expand.exclude, ElementsAre(0, 1));
  EXPECT_THAT(minimal_with({"lora.target_modules=q_proj,v_proj"}).lora.target_modules, ElementsAre("q_proj", "v_proj"));
  EXPECT_THAT(minimal_with({"data.train.0.path=a.txt,b/*.jsonl"}).data.train[0].paths,
              ElementsAre("a.txt", "b/*.jsonl"));
  EXPECT_THAT(minimal_with({"data.train.0.path=\"a,b.txt\""}).data.train[0].paths, ElementsAre("a,b.txt"));
}

TEST(Overrides, TakeThePlaceOfWhatTheyExcludeInTheFile) {
  const std::string text = std::string(kMinimal) + R"(
expand: {num_layers: 2, strategy: uniform, exclude: [0], copies: 2}
train: {max_steps: 100, warmup_steps: 5}
)";
  const method::SelectionOptions by_hand = parse(text, {"expand.after=3,7"}).expand;
  EXPECT_THAT(by_hand.after, ElementsAre(3, 7));
  EXPECT_EQ(by_hand.num_layers, std::nullopt);
  EXPECT_EQ(by_hand.strategy, "manual");
  EXPECT_EQ(by_hand.copies, 1);
  EXPECT_THAT(by_hand.exclude, testing::IsEmpty());
  EXPECT_THAT(parse(text, {"expand.after.0=3"}).expand.after, ElementsAre(3));
  EXPECT_EQ(parse(text, {"expand.trainable=15%"}).expand.num_layers, std::nullopt);
  EXPECT_EQ(parse(text, {"expand.trainable=15%"}).expand.strategy, "uniform");
  EXPECT_EQ(parse(text, {"expand.after=[]"}).expand.num_layers, 2);
  EXPECT_EQ(parse(text, {"expand.after=null", "expand.after=[]"}).expand.num_layers, 2);
  const train::TrainOptions epochs = parse(text, {"train.num_train_epochs=2", "train.warmup_ratio=0.1"}).train;
  EXPECT_EQ(epochs.max_steps, std::nullopt);
  EXPECT_EQ(epochs.num_train_epochs, 2.0);
  EXPECT_EQ(epochs.warmup_steps, std::nullopt);
  EXPECT_EQ(epochs.warmup_ratio, 0.1);

  const std::string recorded = to_yaml(minimal_with({"expand.after=1,2"}));
  EXPECT_EQ(parse(recorded, {"expand.num_layers=3"}).expand.strategy, "lowest");
  EXPECT_THAT(parse(recorded, {"expand.num_layers=3"}).expand.after, testing::IsEmpty());
  try {
    parse(text, {"expand.after=3", "expand.num_layers=1"});
    FAIL() << "both are on the command line";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("found together with expand.num_layers"));
  }
}

TEST(Alternatives, StepsWinAsInHuggingFace) {
  const auto train_of = [](const std::string& train) { return parse(kMinimal + ("train: {" + train + "}")).train; };
  const test::CapturedLog log;
  const train::TrainOptions length = train_of("num_train_epochs: 3, max_steps: 7");
  EXPECT_EQ(length.max_steps, 7);
  EXPECT_EQ(length.num_train_epochs, std::nullopt);
  const train::TrainOptions warmup = train_of("warmup_ratio: 0.5, warmup_steps: 7");
  EXPECT_EQ(warmup.warmup_steps, 7);
  EXPECT_EQ(warmup.warmup_ratio, std::nullopt);
  EXPECT_THAT(log.text(), Says("run.yaml:6: train.num_train_epochs: ignored...train.max_steps"));
  EXPECT_THAT(log.text(), Says("run.yaml:6: train.warmup_ratio: ignored...train.warmup_steps"));
  const train::TrainOptions no_steps = train_of("warmup_ratio: 0.5, warmup_steps: 0");
  EXPECT_EQ(no_steps.warmup_steps, std::nullopt);
  EXPECT_EQ(no_steps.warmup_ratio, 0.5);
  EXPECT_EQ(train_of("warmup_steps: 0").warmup_ratio, std::nullopt);
}

TEST(Methods, SayWhatTheySettleOnlyWhereTheUserWishedForSomethingElse) {
  const auto said = [](const std::vector<std::string>& overrides) {
    const test::CapturedLog log;
    silent_with(overrides);
    return log.text();
  };
  EXPECT_EQ(said({"method=lora"}), "");
  EXPECT_EQ(said({"method=lora", "unit_lr.policy=reference"}), "") << "the default";
  EXPECT_EQ(said({"method=lora", "unit_lr.policy=uniform"}), "");
  EXPECT_THAT(said({"method=lora", "unit_lr.policy=normalized"}),
              HasSubstr("unit_lr.policy: the method lora uses uniform instead of normalized"));
  EXPECT_THAT(said({"method=llama_pro", "expand.strategy=lowest"}),
              HasSubstr("expand.strategy: the method llama_pro uses uniform instead of lowest"));
}

TEST(Methods, SayWhichGivenKeysTheyDoNotUseAndDoNotDependOnThem) {
  const std::vector<std::string> given = {"unit_lr.floor=0.5", "lora.rank=4", "expand.num_layers=7",
                                          "probe.max_tokens=1", "train.max_steps=3"};
  const auto with_method = [&](const char* method) {
    std::vector<std::string> overrides = given;
    overrides.push_back(fmt::format("method={}", method));
    return overrides;
  };
  for (const auto& [method, unused] :
       {std::pair{"adept", "method adept ...not use lora.rank"},
        {"llama_pro", "method llama_pro ...not use probe.max_tokens, unit_lr.floor, lora.rank"},
        {"full", "method full ...not use probe.max_tokens, expand.num_layers, unit_lr.floor, lora.rank"},
        {"lora", "method lora ...not use probe.max_tokens, expand.num_layers, unit_lr.floor"}}) {
    const test::CapturedLog log;
    const RunConfig config = silent_with(with_method(method));
    EXPECT_THAT(log.text(), Reads(fmt::format("...--set ...: the {}\n", unused)));
    const Json plain = deciding(silent_with({fmt::format("method={}", method), "train.max_steps=3"}), ~0U);
    EXPECT_EQ(deciding(config, ~0U) == plain, std::string(method) == "full");
  }
  const test::CapturedLog log;
  silent_with({"method=full", "unit_lr.floor=0.1", "lora.rank=8"});
  EXPECT_EQ(log.text(), "") << "the defaults";
}

TEST(Values, SharesMayBePercentages) {
  EXPECT_EQ(minimal_with({"expand.trainable=15%"}).expand.trainable, 0.15);
  EXPECT_EQ(minimal_with({"expand.trainable=0.15"}).expand.trainable, 0.15);
  EXPECT_EQ(minimal_with({"expand.trainable=15%"}).expand.num_layers, std::nullopt);
  EXPECT_EQ(minimal_with({"train.warmup_ratio=3%"}).train.warmup_ratio, 0.03);
}

TEST(Methods, SetWhatTheyImplyAndLeaveTheRest) {
  const RunConfig pro = minimal_with({"method=llama_pro"});
  EXPECT_EQ(pro.expand.strategy, "uniform");
  EXPECT_EQ(pro.unit_lr.policy, "uniform");
  EXPECT_TRUE(pro.expands());
  EXPECT_EQ(minimal_with({"method=llama_pro", "expand.after=[1]"}).expand.strategy, "manual");
  const RunConfig full = minimal_with({"method=full", "data.general=[]"});
  EXPECT_FALSE(full.expands());
  EXPECT_EQ(full.unit_lr.policy, "uniform");
  EXPECT_EQ(full.train.replay_ratio, 0.0);
  EXPECT_EQ(minimal_with({"method=replay", "data.replay=[{name: r, path: p}]"}).train.replay_ratio, 0.25);
  EXPECT_EQ(minimal_with({"train.replay_ratio=0.1", "data.replay=[{name: r, path: p}]"}).train.replay_ratio, 0.1);
  EXPECT_EQ(minimal_with({"method=lora"}).lora.alpha, 16.0);
  EXPECT_EQ(minimal_with({"method=lora", "lora.rank=4"}).lora.alpha, 8.0);
}

TEST(Overrides, NullUnsetsAList) {
  const std::string text = std::string(kMinimal) + "expand: {after: [1, 2]}\n";
  EXPECT_THAT(parse(text, {"expand.after=null"}).expand.after, testing::IsEmpty());
  EXPECT_THAT(silent_with({"data.replay=null", "lora.target_modules=~"}).data.replay, testing::IsEmpty());
}

TEST(Overrides, NullUnsetsAnAlternative) {
  const std::string text = std::string(kMinimal) + "expand: {num_layers: 2}\n";
  EXPECT_THAT(parse(text, {"expand.num_layers=null", "expand.after=[1, 2]"}).expand.after, ElementsAre(1, 2));
}

TEST(Dump, LoadingTheDumpGivesTheSameDump) {
  for (const RunConfig& config :
       {parse(kMinimal),
        minimal_with({"model=no", "output_dir=007", "data.train.0.path=['# x', \"a: b\", 'null', '~x']",
                      "train.learning_rate=0.1", "train.adam_eps=1e-300", "expand.after=[0,9]", "train.max_steps=5",
                      "train.warmup_steps=1", "data.train.0.weight=0.30000000000000004",
                      "data.eval=[{name: \"1\", path: 'é ü 日本 😀', role: general}]"}),
        minimal_with({"method=full"}), minimal_with({"method=llama_pro"}), minimal_with({"method=lora"})}) {
    const std::string dump = to_yaml(config);
    const test::CapturedLog log;
    EXPECT_EQ(to_yaml(parse(dump)), dump);
    EXPECT_EQ(to_json(parse(dump)), to_json(config));
    EXPECT_EQ(log.text(), "");
  }
}

TEST(Dump, KeepsOrderAndExactNumbers) {
  const std::string dump = to_yaml(minimal_with({"train.learning_rate=0.1", "expand.after=[0,9]"}));
  EXPECT_THAT(dump, testing::StartsWith(
                        "model: base\noutput_dir: out\nmethod: adept\nkeep_expanded: false\nseed: 42\ndtype: auto\n"));
  EXPECT_THAT(dump, HasSubstr("\n  num_layers: null\n  trainable: null\n  after: [0, 9]\n"));
  EXPECT_THAT(dump, HasSubstr("\n  learning_rate: 0.1\n"));
}

TEST(Deciding, EveryKeyIsSaidToDecideSomethingOrNothing) {
  for (const KeyDoc& key : all_keys()) {
    EXPECT_NE(key.decides, 0U) << key.key;
    const bool is_alone = (key.decides & (decides::kNothing | decides::kContents)) != 0;
    EXPECT_TRUE(!is_alone || (key.decides & (key.decides - 1)) == 0)
        << key.key << " decides nothing, and something too";
  }
}

TEST(Deciding, HoldsTheKeysThatDecideAndNoOthers) {
  const RunConfig config = parse(kMinimal);
  const Json whole = to_json(config), probe = deciding(config, decides::kProbe);
  std::vector<std::string> names;
  for (const auto& [name, value] : probe.items()) names.push_back(name);
  EXPECT_THAT(names, testing::ElementsAre("dtype", "seq_len", "probe"));
  EXPECT_EQ(probe["probe"], whole["probe"]);
  EXPECT_EQ(deciding(config, decides::kExpansion), Json({{"expand", whole["expand"]}}));
  const Json training = deciding(config, decides::kTraining);
  EXPECT_EQ(training["unit_lr"], whole["unit_lr"]);
  EXPECT_EQ(training["data"], Json({{"packing", "concat"}, {"document_mask", true}}));
  EXPECT_EQ(deciding(config, decides::kMixture)["data"],
            Json({{"deduplicate", false}, {"drop_contaminated", false}, {"temperature", 1.0}}));
  EXPECT_EQ(training["train"]["learning_rate"], whole["train"]["learning_rate"]);
  for (const char* key : {"max_steps", "logging_steps", "report_to", "activation_cache"})
    EXPECT_FALSE(training["train"].contains(key)) << key;
  for (const char* section : {"lora", "top_k_layers"})
    EXPECT_FALSE(training.contains(section)) << section << " is another method's";
  const Json lora = deciding(parse(kMinimal, {"method=lora"}), decides::kTraining);
  EXPECT_EQ(lora["lora"]["rank"], 8);
  EXPECT_FALSE(lora.contains("top_k_layers"));
  EXPECT_EQ(deciding(config, decides::kEnd)["train"]["max_steps"], whole["train"]["max_steps"]);
  const Json evaluation = deciding(config, decides::kEvaluation)["eval"],
             copies = deciding(config, decides::kCopies)["eval"];
  EXPECT_FALSE(evaluation.contains("copies_tokens"));
  EXPECT_EQ(copies["copies_tokens"], whole["eval"]["copies_tokens"]);
  EXPECT_EQ(copies["stride"], evaluation["stride"]);
}

}  // namespace
}  // namespace adept::config
