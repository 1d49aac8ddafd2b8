#include "adept/model/gguf/tensors.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <random>

#include "adept/data/tokenizer/tokenizer.h"
#include "adept/io/weight_files.h"
#include "adept/model/config.h"
#include "adept/model/gguf/import.h"
#include "adept/model/load.h"
#include "tests/support/reads.h"
#include "tests/unit/model/import_gguf_support.h"

namespace adept::model {
namespace {

using gguf_test::data_error;
using gguf_test::GgufBuilder;
using gguf_test::refusal;
using gguf_test::tiny_model;
using test::Says;
using testing::AllOf;
using testing::HasSubstr;

ImportedModel import_to(const GgufBuilder& builder, const gguf_test::TemporaryDirectory& directory,
                        const ImportGgufOptions& options = {}) {
  io::test::write(directory / "tiny.gguf", builder.build());
  return import_gguf(directory / "tiny.gguf", directory / "out", options, Progress::silent());
}

std::vector<float> values_of(const io::WeightFiles& weights, std::string_view name) {
  const io::TensorView& tensor = weights.at(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
  std::memcpy(values.data(), tensor.data.data(), tensor.data.size());
  return values;
}

TEST(ImportGguf, WritesADirectoryThatIsComplete) {
  const gguf_test::TemporaryDirectory directory;
  for (const char* name : {"llama", "mistral", "qwen2", "qwen3"}) {
    ImportGgufOptions options;
    options.replace_existing = true;
    const ImportedModel imported = import_to(tiny_model(name), directory, options);
    EXPECT_EQ(imported.model_type, name);
    EXPECT_EQ(imported.pre_tokenizer, "smollm");
    EXPECT_EQ(io::test::names_in(directory / "out"),
              (std::set<std::string>{"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                                     "tokenizer_config.json", "special_tokens_map.json"}));
    ModelConfig config = read_model_config(directory / "out");
    EXPECT_EQ(imported.num_parameters, num_parameters(config)) << name;
    const io::WeightFiles weights = io::WeightFiles::open(directory / "out");
    Weights slots;
    const std::vector<Parameter> parameters = named_parameters(config, slots);
    EXPECT_EQ(weights.names().size(), parameters.size()) << name;
    for (const Parameter& parameter : parameters) EXPECT_EQ(weights.at(parameter.name).shape, parameter.shape);
    EXPECT_EQ(data::Tokenizer::from_model_dir(directory / "out").vocab_size(), 262);
  }
}

TEST(ImportGguf, PutsTheRowsOfQueriesAndKeysBackInOrder) {
  const gguf_test::TemporaryDirectory directory;
  import_to(tiny_model("llama"), directory);
  const io::WeightFiles weights = io::WeightFiles::open(directory / "out");
  const std::vector<float> q = values_of(weights, "model.layers.0.self_attn.q_proj.weight");
  const std::vector<float> k = values_of(weights, "model.layers.0.self_attn.k_proj.weight");
  const std::vector<float> v = values_of(weights, "model.layers.0.self_attn.v_proj.weight");
  const int order[] = {0, 2, 1, 3, 4, 6, 5, 7};  // rows (head, pair, half) as (head, half, pair), heads of 4
  for (std::size_t row = 0; row < 8; ++row) EXPECT_EQ(q[row * 8], static_cast<float>(order[row]) * 8) << row;
  for (std::size_t row = 0; row < 4; ++row) EXPECT_EQ(k[row * 8], 100 + static_cast<float>(order[row]) * 8) << row;
  for (std::size_t i = 0; i < v.size(); ++i) EXPECT_EQ(v[i], 200 + static_cast<float>(i));
}

TEST(ImportGguf, LeavesTheRowsOfQwenAlone) {
  for (const char* name : {"qwen2", "qwen3"}) {
    const gguf_test::TemporaryDirectory directory;
    import_to(tiny_model(name), directory);
    const std::vector<float> q =
        values_of(io::WeightFiles::open(directory / "out"), "model.layers.0.self_attn.q_proj.weight");
    for (std::size_t i = 0; i < q.size(); ++i) EXPECT_EQ(q[i], static_cast<float>(i));
  }
}

TEST(ImportGguf, BiasesOfQueriesAndKeysAreReorderedToo) {
  GgufBuilder builder = tiny_model();
  for (const auto& [name, size] : {std::pair{"attn_q", 8}, {"attn_k", 4}, {"attn_v", 4}, {"attn_output", 8}})
    gguf_test::add_counting(builder, std::string("blk.0.") + name + ".bias", {static_cast<std::uint64_t>(size)}, 0);
  const gguf_test::TemporaryDirectory directory;
  import_to(builder, directory);
  const io::WeightFiles weights = io::WeightFiles::open(directory / "out");
  EXPECT_THAT(values_of(weights, "model.layers.0.self_attn.q_proj.bias"), testing::ElementsAre(0, 2, 1, 3, 4, 6, 5, 7));
  EXPECT_THAT(values_of(weights, "model.layers.0.self_attn.k_proj.bias"), testing::ElementsAre(0, 2, 1, 3));
  EXPECT_THAT(values_of(weights, "model.layers.0.self_attn.o_proj.bias"), testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
}

TEST(ImportGguf, RoundsToNearestEvenWhenAsked) {
  struct Case {
    float value;
    unsigned bfloat16, half;
  };
  const std::vector<Case> cases = {
      {1.0f, 0x3f80, 0x3c00},           {-2.5f, 0xc020, 0xc100},         {0.0f, 0x0000, 0x0000},
      {-0.0f, 0x8000, 0x8000},          {1.00390625f, 0x3f80, 0x3c04},  // 1 + 2^-8: a tie in bf16, to even
      {1.01171875f, 0x3f82, 0x3c0c},                                    // 1 + 3 * 2^-8: a tie in bf16, up to even
      {1.00048828125f, 0x3f80, 0x3c00},                                 // 1 + 2^-11: a tie in fp16
      {1.00146484375f, 0x3f80, 0x3c02},                                 // 1 + 3 * 2^-11
      {65504.0f, 0x4780, 0x7bff},       {65519.0f, 0x4780, 0x7bff},      {0x1p-24f, 0x3380, 0x0001},
      {0x1p-25f, 0x3300, 0x0000},       {0x1.8p-24f, 0x33c0, 0x0002},    {0x1.ffcp-15f, 0x3880, 0x0400},
      {0x1.ffep-15f, 0x3880, 0x0400},   {-0x1.23456p-3f, 0xbe12, 0xb08d}};
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const Case& c : cases) {
      const io::GgufTensor tensor{"t", io::GgmlType::kF32, {1}, std::as_bytes(std::span(&c.value, 1))};
      std::uint16_t found = 0;
      EXPECT_EQ(convert_gguf_tensor({&tensor, "t", 0}, dtype, std::as_writable_bytes(std::span(&found, 1))), "");
      EXPECT_EQ(found, dtype == DType::kBF16 ? c.bfloat16 : c.half) << c.value;
    }
  }
}

TEST(ImportGguf, RefusesValuesThatAreNoWeights) {
  const gguf_test::TemporaryDirectory directory;
  GgufBuilder builder = tiny_model();
  builder.tensor("output_norm.weight").data.replace(8, 4, io::test::little_endian(70000.0f));
  ImportGgufOptions half;
  half.dtype = DType::kF16;
  EXPECT_THAT(data_error([&] { import_to(builder, directory, half); }), Says("\"output_norm.weight\"...70000...fp16"));
  builder.tensor("output_norm.weight").data.replace(8, 4, io::test::little_endian(INFINITY));
  builder.tensor("blk.0.ffn_up.weight").data.replace(0, 4, io::test::little_endian(NAN));
  EXPECT_THAT(data_error([&] { import_to(builder, directory); }),
              AllOf(Says("\"output_norm.weight\", F32 [8]...inf at element 2"),
                    Says("\"blk.0.ffn_up.weight\", F32 [12, 8]...nan at element 0")));
  EXPECT_EQ(io::test::names_in(directory.path()), (std::set<std::string>{"tiny.gguf"})) << "nothing is left behind";
  ImportGgufOptions wrong;
  wrong.dtype = DType::kI8;
  EXPECT_THROW(import_to(tiny_model(), directory, wrong), ConfigError);
}

TEST(ImportGguf, ReplacesADirectoryOnlyWhenAsked) {
  const gguf_test::TemporaryDirectory directory;
  std::filesystem::create_directory(directory / "out");
  io::test::write(directory / "out" / "mine.txt", "x");
  EXPECT_THAT(data_error([&] { import_to(tiny_model(), directory); }), HasSubstr("out"));
  EXPECT_EQ(io::test::names_in(directory / "out"), std::set<std::string>{"mine.txt"});
  ImportGgufOptions options;
  options.replace_existing = true;
  import_to(tiny_model(), directory, options);
  EXPECT_FALSE(std::filesystem::exists(directory / "out" / "mine.txt"));
}

TEST(ImportGguf, RefusesMissingUnknownAndMisshapenTensorsAllAtOnce) {
  GgufBuilder builder = tiny_model();
  builder.remove_tensor("blk.0.attn_v.weight").tensor("blk.0.ffn_up.weight").sizes = {8, 11};
  builder.tensor("blk.0.ffn_up.weight").data.resize(4 * 8 * 11);
  builder.lay_out();
  gguf_test::add_counting(builder, "blk.0.attn_sinks.weight", {2}, 0);
  EXPECT_THAT(refusal(builder), AllOf(HasSubstr("3 problems"), Says("no tensor \"blk.0.attn_v.weight\"...llama"),
                                      Says("\"blk.0.ffn_up.weight\"...F32 [11, 8]...[12, 8]"),
                                      Says("\"blk.0.attn_sinks.weight\", F32 [2]...not ...llama")));
  EXPECT_THAT(refusal(tiny_model().remove_tensor("token_embd.weight")),
              HasSubstr("has no tensor \"token_embd.weight\""));
  GgufBuilder beyond = tiny_model();
  gguf_test::add_counting(beyond, "blk.1.attn_norm.weight", {8}, 0);
  EXPECT_THAT(refusal(beyond), HasSubstr("tensor \"blk.1.attn_norm.weight\""));
}

TEST(ImportGguf, SurvivesMutations) {
  GgufBuilder with_pieces = tiny_model();
  gguf_test::set_sentencepiece_tokenizer(with_pieces);
  std::mt19937 random(3);
  int num_read = 0;
  for (const GgufBuilder& builder : {tiny_model("llama", "llama-bpe"), tiny_model("qwen2", "default"), with_pieces}) {
    const std::string whole = builder.build();
    const std::size_t header = builder.header().size();
    for (int trial = 0; trial < 1500; ++trial) {
      std::string bytes = whole;
      const std::size_t place = random() % header;
      const unsigned kind = random() % 3;
      if (kind == 0)
        bytes[place] = static_cast<char>(random());
      else if (kind == 1)
        bytes.replace(place, 4, io::test::little_endian(random() % 300));
      else
        bytes[place] = static_cast<char>(bytes[place] ^ (1 << random() % 8));
      try {
        const gguf_test::ParsedGguf file(bytes);
        const GgufModel model = read_gguf_model(*file);
        const auto plan = plan_gguf_tensors(*file, model);
        read_gguf_tokenizer(*file, model);
        for (const GgufTensorPlan& item : plan) {
          std::vector<std::byte> out(static_cast<std::size_t>(item.source->num_elements()) * 2);
          convert_gguf_tensor(item, DType::kBF16, out);
        }
        ++num_read;
      } catch (const DataError&) {
      }
    }
  }
  EXPECT_GT(num_read, 50);
}

}  // namespace
}  // namespace adept::model
