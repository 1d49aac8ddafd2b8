// Every message of the configuration: where, which key, what was found, what was expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "adept/config/run_config.h"
#include "adept/core/error.h"
#include "adept/core/random.h"
#include "tests/support/environment.h"
#include "tests/support/reads.h"

namespace adept::config {
namespace {

using test::Reads;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

std::string message_of(const std::string& text, const std::vector<std::string>& overrides = {},
                       Purpose purpose = Purpose::kRun) {
  try {
    parse_run_config(text, "run.yaml", overrides, purpose);
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kUsage);
    return error.what();
  }
  return "no error";
}

// Five good lines, so that what follows begins at line 6.
constexpr char kGood[] = R"(model: base
output_dir: out
data:
  train: [{name: med, path: med.txt}]
  general: [{name: gen, path: gen.txt}]
)";

struct Case {
  std::string yaml;  // after kGood
  std::string message;
};

TEST(ConfigErrors, WrongTypesAndValues) {
  const std::vector<Case> cases = {
      // scalars of the wrong type
      {"train: {learning_rate: fast}", R"(run.yaml:6: train.learning_rate: found "fast"; expected a number > 0)"},
      {"train:\n  learning_rate: '5e-4'",
       R"(run.yaml:7: train.learning_rate: found the string "5e-4"; expected a number > 0, without quotes)"},
      {"train: {learning_rate: [1]}", "run.yaml:6: train.learning_rate: found a list; expected a number > 0"},
      {"train: {learning_rate: {a: 1}}", "run.yaml:6: train.learning_rate: found a section; expected a number > 0"},
      {"train:\n  learning_rate:\n  batch_size: 1",
       "run.yaml:7: train.learning_rate: found nothing; expected a number > 0"},
      {"train: {learning_rate: true}", "run.yaml:6: train.learning_rate: found true; expected a number > 0"},
      {"seq_len: 2.5", "run.yaml:6: seq_len: found 2.5; expected an integer from 2 to 1048576"},
      {"seq_len: 512.0", "run.yaml:6: seq_len: found 512.0; expected an integer from 2 to 1048576"},
      {"seq_len: 0x200", "run.yaml:6: seq_len: found \"0x200\"; expected an integer from 2 to 1048576"},
      {"seq_len: 0512", "run.yaml:6: seq_len: found 0512; expected an integer from 2 to 1048576"},
      {"seq_len: 5e-1", "run.yaml:6: seq_len: found 5e-1; expected an integer from 2 to 1048576"},
      {"seq_len: \"512\"",
       R"(run.yaml:6: seq_len: found the string "512"; expected an integer from 2 to 1048576, without quotes)"},
      {"seed: 99999999999999999999",
       "run.yaml:6: seed: found 99999999999999999999; expected an integer from 0 to 4294967295"},
      {"eval: {packed: 1}", "run.yaml:6: eval.packed: found 1; expected true or false"},
      {"eval: {packed: 'true'}", R"(run.yaml:6: eval.packed: found the string "true"; expected true or false)"},
      // not finite, out of range
      {"train: {learning_rate: .nan}", "run.yaml:6: train.learning_rate: found .nan; expected a number > 0"},
      {"train: {learning_rate: .inf}", "run.yaml:6: train.learning_rate: found .inf; expected a number > 0"},
      {"train: {learning_rate: inf}", "run.yaml:6: train.learning_rate: found inf; expected a number > 0"},
      {"train: {learning_rate: 1e999}", "run.yaml:6: train.learning_rate: found 1e999; expected a number > 0"},
      {"train: {learning_rate: 0}", "run.yaml:6: train.learning_rate: found 0; expected a number > 0"},
      {"train: {learning_rate: -1e-4}", "run.yaml:6: train.learning_rate: found -1e-4; expected a number > 0"},
      {"train: {adam_beta1: 1.0}", "run.yaml:6: train.adam_beta1: found 1.0; expected a number >= 0 and < 1"},
      {"train: {min_lr_ratio: 1.5}", "run.yaml:6: train.min_lr_ratio: found 1.5; expected a number from 0 to 1"},
      {"train: {save_total_limit: 1}",
       "run.yaml:6: train.save_total_limit: found 1; expected an integer from 2 to 1000000"},
      {"seq_len: 1", "run.yaml:6: seq_len: found 1; expected an integer from 2 to 1048576"},
      {"seed: -1", "run.yaml:6: seed: found -1; expected an integer from 0 to 4294967295"},
      {"probe: {max_tokens: -5}", "run.yaml:6: probe.max_tokens: found -5; expected an integer >= 0"},
      // choices
      {"train: {lr_scheduler: cosin}",
       R"(run.yaml:6: train.lr_scheduler: found "cosin"; expected constant, linear, cosine or wsd;...cosine?)"},
      {"dtype: float16", R"(run.yaml:6: dtype: found "float16"; expected auto, fp32 or bf16)"},
      {"device: 0", "run.yaml:6: device: found 0; expected cpu or cuda"},
      {"device: []", "run.yaml:6: device: found a list; expected cpu or cuda"},
      // sections and lists
      {"train: 5", "run.yaml:6: train: found 5; expected a section"},
      {"train: [5]", "run.yaml:6: train: found a list; expected a section"},
      {"expand: {after: 3}", "run.yaml:6: expand.after: found 3; expected a list of integers from 0 to 10000"},
      {"expand: {after: [1, x, 2.5]}",
       "run.yaml:6: expand.after.1: found \"x\"; expected an integer from 0 to 10000\n"
       "run.yaml:6: expand.after.2: found 2.5; expected an integer from 0 to 10000"},
      {"expand:\n  after:\n    - 1\n    - [2]",
       "run.yaml:9: expand.after.1: found a list; expected an integer from 0 to 10000"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(kGood + c.yaml), Reads(c.message)) << c.yaml;
}

TEST(ConfigErrors, UnknownKeysNameTheNearest) {
  const std::vector<Case> cases = {
      {"train: {learning_rat: 1}", "run.yaml:6: train.learning_rat: ...unknown key... train.learning_rate?"},
      {"trian: {}", "run.yaml:6: trian: ...unknown key... train?"},
      {"train: {lr: 1}", "run.yaml:6: train.lr: ...unknown key... train.learning_rate?"},
      {"gradient_accumulation_steps: 4",
       "run.yaml:6: gradient_accumulation_steps: ...unknown key... train.grad_accum?"},
      {"learning_rate: 1", "run.yaml:6: learning_rate: ...unknown key... train.learning_rate?"},
      {"batch_size: 1",
       "run.yaml:6: batch_size: ...unknown key... probe.batch_size, train.batch_size or "
       "eval.batch_size?"},
      {"probe: {colour: red}",
       "run.yaml:6: probe.colour: ...unknown key; expected ...method, max_tokens, until_separated, batch_size"},
      {"\"a\\nb\": 1",
       "run.yaml:6: a\\nb: ...unknown key; expected ...model, output_dir, method, keep_expanded, seed, dtype, "
       "export_dtype, device, threads, kernels, seq_len, data, probe, expand, train, unit_lr, lora, top_k_layers, "
       "eval, dist"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(kGood + c.yaml), Reads(c.message)) << c.yaml;
}

TEST(ConfigErrors, SourcesAreChecked) {
  const std::string head = "model: base\noutput_dir: out\n";
  const std::vector<Case> cases = {
      {"data:\n  train: [{nam: a, path: p}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0.name: found nothing; expected a string\n"
       "run.yaml:4: data.train.0.nam: ...unknown key... data.train.0.name?"},
      {"data:\n  train: []\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train: found an empty list; expected a list of sections"},
      {"data:\n  train:\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train: found nothing; expected a list of sections"},
      {"data:\n  train: p.txt\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train: found \"p.txt\"; expected a list of sections"},
      {"data:\n  train: [p.txt]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0: found \"p.txt\"; expected a section"},
      {"data:\n  train: [{name: a, path: []}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0.path: found an empty list; expected a string or a list of strings"},
      {"data:\n  train: [{name: a, path: [x, 5, '']}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0.path.1: found 5; expected a string, in quotes\n"
       "run.yaml:4: data.train.0.path.2: found the string \"\"; expected a string that is not empty"},
      {"data:\n  train: [{name: no, path: \"a\\0b\"}]\n  general: [{name: 12, path: p}]",
       "run.yaml:4: data.train.0.name: found no; expected a string, in quotes\n"
       "run.yaml:4: data.train.0.path: found the string \"a\\u0000b\"; expected a string ...control characters\n"
       "run.yaml:5: data.general.0.name: found 12; expected a string, in quotes"},
      {"data:\n  train: [{name: a b, path: p}]\n  general: [{name: .g, path: p}]",
       "run.yaml:4: data.train.0.name: found \"a b\"; expected 1 to 64 letters, digits, '.', '_' or '-'...\n"
       "run.yaml:5: data.general.0.name: found \".g\"; expected 1 to 64 letters, digits, '.', '_' or '-'..."},
      {"data:\n  train: [{name: a, path: p}]\n  general: [{name: g, path: p}]\n  eval: [{name: a, path: q}]",
       "run.yaml:6: data.eval.0.name: found \"a\", ...data.train.0.name; expected a unique name"},
      {"data:\n  train:\n  - {name: a, path: p, weight: 1}\n  - {name: b, path: p}\n  general: [{name: g, path: p}]",
       "run.yaml:6: data.train.1.weight: found nothing; expected a weight...data.train..."},
      {"data:\n  train:\n  - {name: a, path: p}\n  - {name: b, path: p, weight: 1}\n  general: [{name: g, path: p}]",
       "run.yaml:5: data.train.0.weight: found nothing; expected a weight...data.train..."},
      {"data:\n  temperature: 2\n  train: [{name: a, path: p, weight: 1}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.temperature: found 2...; expected sources without weights..."},
      {"data:\n  train: [{name: a, path: p, epochs: 0, max_tokens: 1.5}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0.epochs: found 0; expected a number > 0 and <= 1000000\n"
       "run.yaml:4: data.train.0.max_tokens: found 1.5; expected an integer >= 1"},
      {"data:\n  train: [{name: a, path: p, weight: 0}]\n  general: [{name: g, path: p}]",
       "run.yaml:4: data.train.0.weight: found 0; expected a number > 0 and <= 1000000, or a list ...progress, "
       "value..."},
      {"data:\n  train: [{name: a, path: p}]",
       "run.yaml:3: data.general: found nothing; expected general text, ...layer importance..."},
      {"data: {train: [{name: a, path: p}]}\nexpand: {after: [1]}",
       "run.yaml:3: data.general: found nothing; expected general text, ...unit importance "
       "(unit_lr.policy: reference)..."},
      {"data: {train: [{name: a, path: p}]}\nexpand: {after: [1]}\nunit_lr: {policy: uniform}", "no error"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(head + c.yaml), Reads(c.message)) << c.yaml;
}

TEST(ConfigErrors, TrainingAnExpandedModelNeedsNoGeneralTextForUniformRates) {
  const std::string text = "model: m\noutput_dir: o\ndata: {train: [{name: a, path: p}]}\nunit_lr: {policy: uniform}";
  EXPECT_EQ(message_of(text, {}, Purpose::kTrain), "no error");
  EXPECT_THAT(message_of(text, {"unit_lr.policy=reference"}, Purpose::kTrain),
              Reads("run.yaml:3: data.general: found nothing; expected general text, ...unit importance "
                    "(unit_lr.policy: reference)..."));
}

TEST(ConfigErrors, FieldsThatContradictEachOther) {
  const std::vector<Case> cases = {
      {"expand: {num_layers: 2, after: [1]}",
       "run.yaml:6: expand.after: found together with expand.num_layers; expected only one...(null or [] ...)"},
      {"expand: {after: [3, 7, 5]}", "run.yaml:6: expand.after.2: found 5 after 7; expected ascending..."},
      {"expand: {trainable: 15%, num_layers: 2}",
       "run.yaml:6: expand.trainable: found together with ...expand.num_layers, expand.trainable and "
       "expand.after; expected only one...(null or [] ...)"},
      {"expand: {trainable: 0.2, after: [1]}",
       "run.yaml:6: expand.trainable: found together with ...expand.num_layers, expand.trainable and "
       "expand.after; expected only one...(null or [] ...)"},
      {"expand: {trainable: 150%}", "run.yaml:6: expand.trainable: found \"150%\"; expected a number > 0 and < 1"},
      {"expand: {trainable: 40}", "run.yaml:6: expand.trainable: found 40; expected a number > 0 and < 1;...40%?"},
      {"expand: {trainable: lots}", "run.yaml:6: expand.trainable: found \"lots\"; expected a number > 0 and < 1"},
      {"expand: {strategy: manual}", "run.yaml:6: expand.strategy: found manual; expected ...expand.after"},
      {"expand: {strategy: uniform, after: [1]}",
       "run.yaml:6: expand.strategy: found uniform ...expand.after; expected manual..."},
      {"expand: {strategy: lowst}",
       "run.yaml:6: expand.strategy: found \"lowst\"; expected lowest, cost_aware, uniform, ... or manual;...lowest?"},
      {"expand: {after: [1], copies: 2}",
       "run.yaml:6: expand.copies: found 2 together with expand.after; expected 1..."},
      {"expand: {after: [1], exclude: [2]}",
       "run.yaml:6: expand.exclude: found together with expand.after; expected only one..."},
      {"method: replay",
       "run.yaml:3: data.replay: found nothing; expected general text, ...0.25 of the training tokens "
       "(method: replay)"},
      {"method: replay\ntrain: {replay_ratio: 0}",
       "run.yaml:7: train.replay_ratio: found 0 ...method: replay; expected more than 0...method: full"},
      {"probe: {until_separated: true}\nexpand: {strategy: highest}",
       "run.yaml:6: probe.until_separated: found true together with expand.strategy: highest; expected lowest or "
       "cost_aware..."},
      {"train: {replay_ratio: 10%}",
       "run.yaml:3: data.replay: found nothing; expected general text, ...0.1 of the training tokens "
       "(train.replay_ratio)"},
      {"method: lorra",
       "run.yaml:6: method: found \"lorra\"; expected adept, full, replay, llama_pro, lora or top_k_layers;...lora?"},
      {"probe: {method: mask}", "run.yaml:6: probe.method: found \"mask\"; expected mask_out, ..."},
      {"probe: {method: mask_uot}",
       "run.yaml:6: probe.method: found \"mask_uot\"; expected mask_out, ...;...mask_out?"},
      {"probe: {method: [mask_out]}", "run.yaml:6: probe.method: found a list; expected mask_out, ..."},
      {"train: {warmup_steps: 10, warmup_ratio: 0.1, max_steps: 9, num_train_epochs: 2}",
       "run.yaml:6: train.warmup_steps: found 10; expected at most train.max_steps...9"},
      {"train: {max_steps: 9, warmup_steps: 10}",
       "run.yaml:6: train.warmup_steps: found 10; expected at most train.max_steps...9"},
      {"train: {lr_scheduler: wsd, warmup_ratio: 0.5, decay_ratio: 0.6}",
       "run.yaml:6: train.decay_ratio: found 0.6; expected ...at most 1 ...warm-up is 0.5..."},
      {"train: {lr_scheduler: wsd, max_steps: 10, warmup_steps: 5, decay_ratio: 0.6}",
       "run.yaml:6: train.decay_ratio: found 0.6; expected ...at most 1 ...warm-up is 0.5..."},
      {"train: {lr_scheduler: cosine, warmup_ratio: 0.5, decay_ratio: 0.6}", "no error"},
      {"train: {lr_scheduler: cosin, max_steps: 9, warmup_steps: 10}",
       "run.yaml:6: train.lr_scheduler: found \"cosin\"; expected constant, linear, cosine or wsd;...cosine?\n"
       "run.yaml:6: train.warmup_steps: found 10; expected at most train.max_steps...9"},
      {"eval: {stride: 600}", "run.yaml:6: eval.stride: found 600; expected at most seq_len, which is 512"},
      {"eval: {stride: 100, packed: true}",
       "run.yaml:6: eval.stride: found 100 together with eval.packed; expected 0..."},
      {"train: {eval_steps: 10}", "run.yaml:6: train.eval_steps: found 10...; expected 0...data.eval"},
      // a value that could not be read starts no second complaint
      {"eval: {stride: 600}\nseq_len: many",
       "run.yaml:7: seq_len: found \"many\"; expected an integer from 2 to 1048576"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(kGood + c.yaml), Reads(c.message)) << c.yaml;
  EXPECT_THAT(message_of(kGood, {"output_dir=./base/"}),
              Reads("--set output_dir=./base/: output_dir: found \"./base/\", which is the model; expected ..."));
}

TEST(ConfigErrors, AllAtOnceInTheOrderOfTheFileAndThenOfTheOverrides) {
  EXPECT_THAT(message_of("seed: x\nmodle: base\ndata:\n  general: [{name: g, path: p}]\ntrain: {adam_beta2: 2}\n",
                         {"eval.stride=-1"}),
              Reads("run.yaml: model: found nothing; expected a string\n"
                    "run.yaml: output_dir: found nothing; expected a string\n"
                    "run.yaml:1: seed: found \"x\"; expected an integer from 0 to 4294967295\n"
                    "run.yaml:2: modle: ...unknown key... model?\n"
                    "run.yaml:3: data.train: found nothing; expected a list of sections\n"
                    "run.yaml:5: train.adam_beta2: found 2; expected a number >= 0 and < 1\n"
                    "--set eval.stride=-1: eval.stride: found -1; expected an integer from 0 to 1048576"));
}

TEST(ConfigErrors, Overrides) {
  const std::vector<Case> cases = {
      {"seed", "--set seed: expected KEY=VALUE, as in --set train.learning_rate=1e-4"},
      {"=5", "--set =5: expected KEY=VALUE, as in --set train.learning_rate=1e-4"},
      {"a..b=5", "--set a..b=5: a..b: found an empty part; expected names..."},
      {"seed=x", "--set seed=x: seed: found \"x\"; expected an integer from 0 to 4294967295"},
      {"seed=", "--set seed=: seed: found no value; expected KEY=VALUE (null unsets a key)"},
      {"sed=1", "--set sed=1: sed: ...unknown key... seed?"},
      {"model.path=x", "--set model.path=x: model.path: found \"base\" there; expected a section or a list"},
      {"data.train.5.name=x",
       "--set data.train.5.name=x: data.train.5.name: found the index \"5\" ...list of 1; expected 0 to 1..."},
      {"data.train.med.weight=1",
       "--set data.train.med.weight=1: data.train.med.weight: found the index \"med\" ...list of 1; expected 0 to "
       "1..."},
      {"model='a", "--set model='a: not valid YAML: ...inside quotes..."},
      {"model=\"a\" b", "--set model=\"a\" b: found a second YAML document;..."},
      {"data.eval=[{name: e, name: f, path: p}]",
       "--set data.eval=[{name: e, name: f, path: p}]: data.eval.0.name: found a duplicate key;..."},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(kGood, {c.yaml}), Reads(c.message)) << c.yaml;
}

TEST(ConfigErrors, DocumentsThatAreNotYaml) {
  const std::vector<Case> cases = {
      {"", "run.yaml: found an empty file; expected ...model, output_dir and data"},
      {"# only a comment\n", "run.yaml: found an empty file; expected ...model, output_dir and data"},
      {"- a\n- b\n", "run.yaml:1: found a list; expected KEY: VALUE lines"},
      {"\njust text\n", "run.yaml:2: found \"just text\"; expected KEY: VALUE lines"},
      {"model: a\n---\nmodel: b\n", "run.yaml: found a second YAML document;..."},
      {"train:\n\tseed: 1\n", "run.yaml:2: found a tab...; expected spaces"},
      {"model: \"a\nseed: 1\n", "run.yaml:4: not valid YAML: ...inside quotes..."},
      {"a: 1\nb: \xff\n", "run.yaml:2: found bytes ...not UTF-8; expected ...UTF-8"},
  };
  for (const Case& c : cases) EXPECT_THAT(message_of(c.yaml), Reads(c.message)) << c.yaml;
}

TEST(ConfigErrors, TheYamlParsersOwnWordsFollowThePlace) {
  EXPECT_THAT(message_of("model: a\noutput_dir: *nothing\n"), StartsWith("run.yaml:2: not valid YAML: the referenced"));
  EXPECT_THAT(message_of("model: [a\nseed: 1\n"), StartsWith("run.yaml:"));
  EXPECT_THAT(message_of("model: a: b\n"), StartsWith("run.yaml:1: not valid YAML: "));
  EXPECT_THAT(message_of(kGood, {"expand.after=[1"}), StartsWith("--set expand.after=[1: not valid YAML: "));
}

TEST(ConfigErrors, KeysTwiceOrThatAreNoWords) {
  EXPECT_THAT(message_of(std::string(kGood) + "seed: 1\ntrain: {}\nseed: 2\n"),
              Reads("run.yaml:8: seed: found a duplicate key; ...(first: line 6)"));
  EXPECT_THAT(message_of(std::string(kGood) + "[a, b]: 1\n"),
              Reads("run.yaml:6: found a key ...not a scalar; expected KEY: VALUE"));
  EXPECT_EQ(message_of(std::string(kGood) + "train: {<<: 5}\n"),
            "run.yaml:6: train.<<: found 5; expected an alias of a section");
}

TEST(ConfigErrors, HostileDocumentsAreBounded) {
  EXPECT_THAT(message_of(",model: a\n"), Reads("run.yaml: found a second YAML document;..."));
  EXPECT_EQ(message_of("a: &a [*a]\n"), "run.yaml:1: nested deeper than 32 levels");
  std::string laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 12; ++i) {
    laughs += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) laughs += (j > 0 ? ", *a" : "*a") + std::to_string(i - 1);
    laughs += "]\n";
  }
  EXPECT_THAT(message_of(laughs), Reads("run.yaml...100000 values; expected fewer aliases"));
  EXPECT_THAT(message_of(std::string(100'000, '[')), HasSubstr("run.yaml"));
  EXPECT_THAT(message_of(std::string(100'000, '{')), HasSubstr("run.yaml"));
  EXPECT_THAT(message_of("model: " + std::string(5000, 'x') + "\nmodel: 1"), HasSubstr("model: found a duplicate key"));
  EXPECT_LT(message_of(std::string(kGood) + "seed: " + std::string(5000, 'x')).size(), 300u);
}

TEST(ConfigErrors, ManyProblemsAreListedToALimitAndCounted) {
  std::string text = kGood;
  for (int i = 0; i < 70'000; ++i) text += "key_" + std::to_string(i) + ":\n";
  const std::string message = message_of(text);
  EXPECT_THAT(message.substr(0, message.find('\n')),
              Reads("run.yaml:6: key_0: ...unknown key; expected ...model, ..."));
  EXPECT_THAT(message, test::Says("run.yaml:55: key_49: ...unknown key"));
  EXPECT_THAT(message, EndsWith("\nand 69950 more problems"));
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 50);
  EXPECT_THAT(message_of(text + "key_7: 1\n"), EndsWith("\nand 69951 more problems"));
}

TEST(LengthProblems, AreTheSameWhetherTheStepsAreGivenOrFollowFromEpochs) {
  const auto problems_of = [](const std::string& train, std::int64_t steps) {
    std::string given, derived;
    const std::string max_steps = "train.max_steps=" + std::to_string(steps);
    const std::string message = message_of(kGood + train, {max_steps});
    if (message != "no error") given = message.substr(message.find(": ") + 2);
    const RunConfig config = parse_run_config(kGood + train, "run.yaml");
    for (const LengthProblem& problem : length_problems(config.train, steps))
      derived += problem.keys.front() + ": " + problem.text;
    const std::string by_epochs = "the number of steps of train.num_train_epochs";
    if (const auto at = derived.find(by_epochs); at != std::string::npos)
      derived.replace(at, by_epochs.size(), "train.max_steps");
    EXPECT_EQ(derived, given) << train;
    return derived;
  };
  EXPECT_EQ(problems_of("train: {warmup_steps: 10}", 10), "");
  EXPECT_THAT(problems_of("train: {warmup_steps: 10}", 9),
              Reads("train.warmup_steps: found 10; expected at most train.max_steps...9"));
  EXPECT_EQ(problems_of("train: {lr_scheduler: wsd, warmup_steps: 5, decay_ratio: 0.5}", 10), "");
  EXPECT_THAT(problems_of("train: {lr_scheduler: wsd, warmup_steps: 5, decay_ratio: 0.6}", 10),
              Reads("train.decay_ratio: found 0.6; expected ...at most 1 ...warm-up is 0.5..."));
  EXPECT_EQ(problems_of("train: {warmup_ratio: 1}", 3), "");
  const std::vector<LengthProblem> too_long = length_problems(parse_run_config(kGood, "run.yaml").train, 2'000'000'000);
  ASSERT_EQ(too_long.size(), 1U);
  EXPECT_THAT(too_long[0].text, Reads("...2000000000 steps; expected at most 1000000000"));
}

TEST(ConfigErrors, MutatedTextIsReadOrRefusedNeverWorse) {
  const std::string good = std::string(kGood) +
                           "expand: {after: [1, 2]}\ntrain: &t {learning_rate: 5e-4, \"max_steps\": 1_0}\n"
                           "eval: # comment\n  packed: no\nunit_lr:\n  policy: |\n    uniform\n";
  const std::string_view alphabet = "{}[]:,#&*!|>'\"%@`-?<~ \t\n\\x0.e\xc3";
  int refused = 0;
  for (std::uint64_t trial = 0; trial < 1000; ++trial) {
    std::string text = good;
    auto draw = [&, i = 0u](std::size_t limit) mutable {
      return random_bits(7, RandomStream::kSampling, trial * 64 + i++) % limit;
    };
    for (std::size_t edits = 1 + draw(4); edits > 0; --edits) {
      const std::size_t at = draw(text.size());
      const char c = alphabet[draw(alphabet.size())];
      switch (draw(3)) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.insert(at, 1, c);
          break;
        default:
          text.erase(at, 1 + draw(8));
      }
    }
    try {
      parse_run_config(text, "run.yaml", {"data.train.0." + text.substr(draw(text.size()), draw(20))});
    } catch (const ConfigError& error) {
      ++refused;
      EXPECT_STRNE(error.what(), "") << text;
    }
  }
  EXPECT_GT(refused, 500);
}

TEST(ConfigErrors, FilesThatCannotBeRead) {
  const auto message = [](const std::filesystem::path& path) -> std::string {
    try {
      load_run_config(path);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  const std::filesystem::path folder = testing::TempDir();
  EXPECT_THAT(message("/no/such.yaml"), Reads("/no/such.yaml: cannot open...No such file or directory..."));
  EXPECT_EQ(message(folder), folder.string() + ": found a directory; expected a YAML file");
  const std::filesystem::path large = folder / "adept_large.yaml";
  std::ofstream(large) << "# " << std::string(1 << 20, 'x');
  EXPECT_EQ(message(large), large.string() + ": found more than 1 MiB; expected a run configuration");
  std::filesystem::remove(large);
}

TEST(ConfigErrors, HomeThatIsNotSet) {
  const test::ScopedVariable home("HOME");
  EXPECT_THAT(message_of(kGood, {"model=~/m"}),
              Reads("--set model=~/m: model: found \"~/m\", ...$HOME ...expected ...~"));
}

}  // namespace
}  // namespace adept::config
