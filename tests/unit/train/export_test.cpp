// The exported model: bytes that stay, files beside them, and element types.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <memory>

#include "adept/core/error.h"
#include "adept/io/safetensors.h"
#include "adept/io/weight_files.h"
#include "adept/method/units.h"
#include "adept/model/load.h"
#include "adept/model/torch_tensors.h"
#include "adept/train/export_trained.h"
#include "adept/train/methods.h"
#include "tests/unit/train/tiny_training.h"

namespace adept::train {
namespace {

using config::DTypeChoice;
using testing::AllOf;
using testing::HasSubstr;

// Exports a model that was trained for three steps.
struct Exported {
  test::TemporaryDirectory dir;
  test::ExpandedModel model;
  config::RunConfig config = small_config();
  std::unique_ptr<Trainer> trainer;

  Exported(const std::string& kind, DType dtype, config::DTypeChoice compute = config::DTypeChoice::kFp32)
      : model(test::write_expanded_model(dir.path(), kind, {1, 3}, dtype)) {
    test::write_file(model.expanded / "tokenizer.json", "{\"any\":  1}");
    config.compute.dtype = compute;
    config.train.max_steps = 3;
    // By importance the most important unit stands still; where that is a post-norm's gain, so does all before it.
    config.unit_lr.policy = "uniform";
    trainer = std::make_unique<Trainer>(make_inputs(config, model.expanded, dir / "run"));
    trainer->run(false);
    trainer->export_model(dir / "out");
  }
};

TEST(Export, KeepsFrozenBytesElementTypesAndTheFilesBesideThem) {
  for (const std::string& kind : test::model_kinds()) {
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
      SCOPED_TRACE(kind);
      const Exported e(kind, dtype);
      const io::WeightFiles before = io::WeightFiles::open(e.model.expanded),
                            after = io::WeightFiles::open(e.dir / "out");
      const auto units = test::names_of(method::make_units(e.model.expansion, e.trainer->decoder()));
      EXPECT_EQ(after.names(), before.names());
      for (const std::string& name : before.names()) {
        EXPECT_EQ(after.at(name).dtype, dtype);
        EXPECT_EQ(after.at(name).shape, before.at(name).shape);
        const bool trained = std::ranges::find(units, name) != units.end();
        const bool same = std::ranges::equal(after.at(name).data, before.at(name).data);
        const bool moves = trained && name.find("_proj.weight") != std::string::npos;
        EXPECT_TRUE(trained || same) << name;
        EXPECT_FALSE(moves && same) << name;
      }
      for (const char* file : {"config.json", "tokenizer.json", method::kExpansionManifest})
        EXPECT_EQ(test::read_file(e.dir / "out" / file), test::read_file(e.model.expanded / file)) << file;
      EXPECT_EQ(method::read_expansion(e.dir / "out").layers.size(), 2U);
    }
  }
}

TEST(Export, LoadsAgainAsTheModelThatWasTrained) {
  const nn::TokenIds ids = test::random_batch({17, 11}).input_ids;
  for (const std::string& kind : test::model_kinds()) {
    SCOPED_TRACE(kind);
    const Exported e(kind, DType::kF32);
    const at::NoGradGuard no_grad;
    const model::Decoder loaded = test::load_decoder(e.dir / "out");
    const model::Decoder& trained = e.trainer->decoder();
    EXPECT_TRUE(test::same_bits(loaded.logits(loaded.forward(ids, {})), trained.logits(trained.forward(ids, {}))));
  }
}

TEST(Export, RoundsTheMastersToTheElementTypeOfTheInput) {
  for (const config::DTypeChoice compute : {config::DTypeChoice::kFp32, config::DTypeChoice::kBf16}) {
    const Exported e("llama", DType::kBF16, compute);
    const io::WeightFiles out = io::WeightFiles::open(e.dir / "out");
    const auto masters = io::SafetensorsFile::open(e.dir / "run" / "checkpoint-3" / "trainable.safetensors");
    for (const io::TensorView& master : masters->tensors()) {
      const at::Tensor expected = model::as_tensor(master, masters).to(at::kBFloat16);
      EXPECT_TRUE(test::same_bits(model::as_tensor(out.at(master.name), out.owner(master.name)), expected))
          << master.name;
    }
  }
}

TEST(Export, ReplacesAnOlderExport) {
  const Exported e("llama", DType::kF32);
  test::write_file(e.dir / "out" / "old", "x");
  e.trainer->export_model(e.dir / "out");
  EXPECT_FALSE(fs::exists(e.dir / "out" / "old"));
  EXPECT_TRUE(fs::exists(e.dir / "out" / "config.json"));
}

// A model whose parameters are all trained, before any step.
struct TypedExport {
  test::TemporaryDirectory dir;
  config::RunConfig config;
  model::ModelConfig model_config;
  io::WeightFiles files;
  model::Decoder decoder;
  Trainable trainable;

  explicit TypedExport(DType dtype, const Json& json = test::config_of_kind("llama"), Method method = Method::kFull)
      : config(configured(method)),
        model_config(write(dir / "base", json, dtype)),
        files(model::open_weights(model_config, dir / "base")),
        decoder(model_config, model::load_weights(model_config, files)),
        trainable(decoder, trained_tensors(config, decoder, std::nullopt, files)) {}

  static config::RunConfig configured(Method method) {
    config::RunConfig config = small_config();
    config.method = method;
    config.top_k_layers.num_layers = 1;
    return config;
  }

  static model::ModelConfig write(const fs::path& base, const Json& json, DType dtype) {
    test::write_model(base, json, dtype);
    return model::read_model_config(base);
  }

  at::Tensor master(const std::string& name) const {
    for (const optim::Parameter& p : trainable.parameters())
      if (p.name == name) return p.master.detach();
    throw std::out_of_range(name);
  }

  // What was said.
  std::string run(DTypeChoice type) {
    config.export_dtype = type;
    const fs::path base = dir / "base";
    const std::optional<method::Expansion> none;
    const optim::AdamW optimizer(trainable.parameters(), {});
    optim::WholeTensors tensors(optimizer.state());
    testing::internal::CaptureStdout();
    try {
      export_trained({.config = config,
                      .model_dir = base,
                      .trained_from = {},
                      .files = files,
                      .decoder = decoder,
                      .trainable = trainable,
                      .tensors = tensors,
                      .expansion = none,
                      .steps = 1,
                      .data = {}},
                     dir / "out");
    } catch (...) {
      testing::internal::GetCapturedStdout();
      throw;
    }
    return testing::internal::GetCapturedStdout();
  }

  std::set<DType> types() const {
    std::set<DType> types;
    const io::WeightFiles out = io::WeightFiles::open(dir / "out");
    for (const std::string& name : out.names()) types.insert(out.at(name).dtype);
    return types;
  }
  Json exported_config() const { return read_json(dir / "out" / "config.json"); }
};

TEST(ExportDType, EveryTensorHasTheTypeThatIsAskedFor) {
  for (const DType stored : {DType::kF32, DType::kBF16, DType::kF16})
    for (const Method method : {Method::kFull, Method::kTopKLayers}) {
      Json json = test::config_of_kind("llama");
      json["torch_dtype"] = "float64";  // whatever it said
      TypedExport e(stored, json, method);
      e.run(DTypeChoice::kBf16);
      EXPECT_EQ(e.types(), std::set{DType::kBF16});
      EXPECT_EQ(e.exported_config()["torch_dtype"], "bfloat16");
      e.run(DTypeChoice::kFp32);
      EXPECT_EQ(e.types(), std::set{DType::kF32});
      EXPECT_EQ(e.exported_config()["torch_dtype"], "float32");
      const io::WeightFiles out = io::WeightFiles::open(e.dir / "out");
      for (const std::string& name : out.names())
        EXPECT_TRUE(model::as_tensor(out.at(name), out.owner(name))
                        .equal(model::as_tensor(e.files.at(name), e.files.owner(name)).to(at::kFloat)))
            << name << ": widening changes no value";
      e.run(DTypeChoice::kAuto);
      EXPECT_EQ(e.types(), std::set{stored});
      EXPECT_EQ(e.exported_config()["torch_dtype"], stored == DType::kF32    ? "float32"
                                                    : stored == DType::kBF16 ? "bfloat16"
                                                                             : "float16");
    }
}

TEST(ExportDType, OfMixedFilesTheConfigurationNamesTheTypeThatHoldsAll) {
  TypedExport e(DType::kBF16);
  std::vector<io::TensorView> views;
  std::vector<at::Tensor> wide;
  for (const std::string& name : e.files.names()) {
    views.push_back(e.files.at(name));
    if (name.find("norm") == std::string::npos) continue;
    wide.push_back(model::as_tensor(views.back(), e.files.owner(name)).to(at::kFloat) * 1.0001);
    views.back() = model::as_view(name, wide.back());
  }
  fs::create_directories(e.dir / "mixed");
  io::write_weight_files(e.dir / "mixed", views);
  e.files = io::WeightFiles::open(e.dir / "mixed");
  e.run(DTypeChoice::kAuto);
  EXPECT_EQ(e.types(), (std::set{DType::kBF16, DType::kF32}));
  EXPECT_EQ(e.exported_config()["torch_dtype"], "float32") << "bfloat16 would round the norms in silence";
}

TEST(ExportDType, WithoutATypeInTheConfigurationNoneIsInventedWhereNothingChanges) {
  TypedExport e(DType::kBF16);
  e.run(DTypeChoice::kAuto);
  EXPECT_FALSE(e.exported_config().contains("torch_dtype"));
  e.run(DTypeChoice::kFp32);
  EXPECT_EQ(e.exported_config()["torch_dtype"], "float32");
}

TEST(ExportDType, ALineSaysWhatRoundingChanges) {
  TypedExport e(DType::kF32);
  EXPECT_EQ(e.run(DTypeChoice::kFp32), "");
  EXPECT_EQ(e.run(DTypeChoice::kAuto), "");
  EXPECT_THAT(e.run(DTypeChoice::kBf16),
              testing::ContainsRegex("export rounds to bf16: [0-9]+\\.[0-9] % of [0-9,]+ values "
                                     "change, by at most 0\\.39 % \\(.*weight\\)"));
  TypedExport narrow(DType::kBF16);
  EXPECT_EQ(narrow.run(DTypeChoice::kAuto), "") << "the masters are still what the file holds";
}

TEST(ExportDType, AValueBeyondTheRangeIsAnErrorThatNamesItAndTheWayOut) {
  TypedExport e(DType::kF16);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  e.master(name)[2][3] = 70000;
  EXPECT_THAT(test::message_of<DataError>([&] { e.run(DTypeChoice::kAuto); }),
              AllOf(HasSubstr("out: " + name + " has the value 70000 at element 51, beyond the range of fp16"),
                    HasSubstr("Set export_dtype: fp32 or bf16 and repeat the command"),
                    HasSubstr("the training is not repeated")));
  EXPECT_FALSE(fs::exists(e.dir / "out"));
  e.run(DTypeChoice::kBf16);
  e.master(name)[2][3] = 3.4e38;
  EXPECT_THAT(test::message_of<DataError>([&] { e.run(DTypeChoice::kBf16); }),
              AllOf(HasSubstr(name), HasSubstr("beyond the range of bf16"), HasSubstr("Set export_dtype: fp32 and")));
  e.run(DTypeChoice::kFp32);
  EXPECT_EQ(e.types(), std::set{DType::kF32});
}

}  // namespace
}  // namespace adept::train
