#include "adept/io/model_identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

TEST(ModelIdentity, ChangesWithWeightsConfigAndTokenizerAndWithNothingElse) {
  const test::TemporaryDirectory dir;
  const auto write_weights = [&](unsigned seed) {
    std::filesystem::remove(dir / "model.safetensors");
    const test::OwnedTensor tensor = test::make_tensor("a", DType::kF32, {2, 3}, seed);
    write_weight_files(dir.path(), {&tensor.view, 1});
  };
  const auto identity = [&] { return model_identity(WeightFiles::open(dir.path())); };
  write_weights(1);
  test::write(dir / "config.json", R"({"rms_norm_eps": 1e-05})");
  test::write(dir / "tokenizer.json", "{}");
  test::write(dir / "tokenizer_config.json", "{}");
  const ModelIdentity first = identity();
  EXPECT_EQ(first.weights, WeightFiles::open(dir.path()).hash());
  test::write(dir / "README.md", "other");
  test::write(dir / "generation_config.json", "{}");
  EXPECT_EQ(identity(), first);
  EXPECT_EQ(differing_parts(first, identity()), "");

  test::write(dir / "config.json", R"({"rms_norm_eps": 1e-06})");
  EXPECT_EQ(differing_parts(first, identity()), "config.json");
  test::write(dir / "added_tokens.json", "{}");
  EXPECT_EQ(differing_parts(first, identity()), "config.json and tokenizer files");
  write_weights(2);
  EXPECT_EQ(differing_parts(first, identity()), "weights and config.json and tokenizer files");
  EXPECT_EQ(model_identity_from_json(to_json(first), ""), first);
  // The same bytes under another name are another tokenizer.
  const ModelIdentity before = identity();
  std::filesystem::rename(dir / "added_tokens.json", dir / "special_tokens_map.json");
  EXPECT_EQ(differing_parts(before, identity()), "tokenizer files");
}

TEST(ModelIdentity, NamesTheFieldThatIsWrong) {
  Json json = to_json(ModelIdentity{.weights = "w", .config = "c", .tokenizer = "t"});
  json["tokenizer"] = 1;
  EXPECT_EQ(test::data_error([&] { model_identity_from_json(json, "model."); }),
            "model.tokenizer is number; expected a string");
  EXPECT_EQ(test::data_error([&] { model_identity_from_json(Json(), "model."); }), "model.weights is missing");
}

}  // namespace
}  // namespace adept::io
