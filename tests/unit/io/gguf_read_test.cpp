#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <random>

#include "adept/io/gguf.h"
#include "tests/support/reads.h"
#include "tests/unit/io/gguf_builder.h"
#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using adept::test::Says;
using test::data_error;
using test::gguf_string;
using test::GgufBuilder;
using test::little_endian;
using test::ParsedGguf;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const GgufBuilder& builder) {
  return data_error([&] { ParsedGguf{builder.build()}; });
}

GgufBuilder small_file() {
  GgufBuilder builder;
  builder.set("general.architecture", "llama").set("a.u8", std::uint8_t{200}).set("a.i8", std::int8_t{-3});
  builder.set("a.u16", std::uint16_t{60000}).set("a.i16", std::int16_t{-300}).set("a.u32", std::uint32_t{4000000000});
  builder.set("a.i32", std::int32_t{-70000}).set("a.u64", std::uint64_t{1} << 40).set("a.i64", std::int64_t{-5});
  builder.set("a.f32", 1e-5f).set("a.f64", 0.1).set("a.bool", true).set("a.text", "Grüße");
  builder.set("a.ints", std::vector<std::int32_t>{3, -1}).set("a.floats", std::vector<float>{0.5f, -2.0f});
  builder.set("a.strings", std::vector<std::string>{"Ġthe", ""});
  builder.set_raw(
      "a.nested", 9,
      little_endian(9u) + little_endian<std::uint64_t>(1) + little_endian(0u) + little_endian<std::uint64_t>(2) + "ab");
  builder.add_f32("norm.weight", {3}, {1.0f, -2.0f, 0.5f});
  builder.add_tensor("half.weight", {2, 1, 2}, 1, std::string("\x00\x3c\x00\xc0\xff\x7b\x01\x00", 8));
  return builder;
}

TEST(Gguf, ReadsEveryTypeOfMetadata) {
  const ParsedGguf file(small_file().build());
  EXPECT_EQ(file->version(), 3u);
  EXPECT_EQ(file->string("general.architecture"), "llama");
  EXPECT_EQ(file->string("a.text"), "Grüße");
  EXPECT_EQ(file->integer("a.u8"), 200);
  EXPECT_EQ(file->integer("a.i8"), -3);
  EXPECT_EQ(file->integer("a.u16"), 60000);
  EXPECT_EQ(file->integer("a.i16"), -300);
  EXPECT_EQ(file->integer("a.u32"), 4000000000);
  EXPECT_EQ(file->integer("a.i32"), -70000);
  EXPECT_EQ(file->integer("a.u64"), std::int64_t{1} << 40);
  EXPECT_EQ(file->integer("a.i64"), -5);
  EXPECT_EQ(file->number("a.f64"), 0.1);
  EXPECT_EQ(file->number("a.i8"), -3.0);
  EXPECT_EQ(file->boolean("a.bool"), true);
  EXPECT_THAT(*file->integers("a.ints"), ElementsAre(3, -1));
  EXPECT_THAT(*file->integers("a.u8"), ElementsAre(200));
  EXPECT_THAT(*file->floats("a.floats"), ElementsAre(0.5, -2.0));
  EXPECT_THAT(*file->strings("a.strings"), ElementsAre("Ġthe", ""));
  EXPECT_EQ(file->integer("absent"), std::nullopt);
  EXPECT_EQ(file->strings("absent"), nullptr);
  EXPECT_EQ(file->keys().front(), "general.architecture");
}

TEST(Gguf, GivesA32BitFloatAsTheDecimalThatItsWriterHad) {
  EXPECT_EQ(ParsedGguf(small_file().build())->number("a.f32"), 1e-5);
  EXPECT_EQ(ParsedGguf(GgufBuilder().set("x", 500000.0f).build())->number("x"), 500000.0);
  EXPECT_EQ(ParsedGguf(GgufBuilder().set("x", 1e-6f).build())->number("x"), 1e-6);
}

TEST(Gguf, ReadsTensorsWithTheOutermostDimensionFirst) {
  const ParsedGguf file(small_file().build());
  ASSERT_EQ(file->tensors().size(), 2u);
  const GgufTensor* tensor = file->find("half.weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_THAT(tensor->shape, ElementsAre(2, 1, 2));
  EXPECT_EQ(describe(*tensor), "F16 [2, 1, 2]");
  std::vector<float> values(4);
  dequantize(*tensor, values);
  EXPECT_THAT(values, ElementsAre(1.0f, -2.0f, 65504.0f, 0x1p-24f));
  EXPECT_EQ(file->find("nothing"), nullptr);
}

TEST(Gguf, OpensAFileOnDisk) {
  const test::TemporaryDirectory directory;
  test::write(directory / "m.gguf", small_file().build());
  const auto file = GgufFile::open(directory / "m.gguf");
  EXPECT_EQ(file->tensors().size(), 2u);
  EXPECT_THAT(data_error([&] { GgufFile::open(directory / "none.gguf"); }), HasSubstr("none.gguf"));
}

TEST(Gguf, NamesTheKeyOfAWrongType) {
  const ParsedGguf file(small_file().build());
  EXPECT_THAT(data_error([&] { file->string("a.u8"); }),
              AllOf(HasSubstr("x.gguf"), HasSubstr("\"a.u8\" is an 8-bit unsigned integer; expected a string")));
  EXPECT_THAT(data_error([&] { file->integer("a.f32"); }), HasSubstr("a 32-bit float; expected an integer"));
  EXPECT_THAT(data_error([&] { file->boolean("a.text"); }), HasSubstr("a string; expected a boolean"));
  EXPECT_THAT(data_error([&] { file->number("a.text"); }), HasSubstr("expected a number"));
  EXPECT_THAT(data_error([&] { file->strings("a.ints"); }),
              HasSubstr("an array, each element a 32-bit integer; expected an array of strings"));
  EXPECT_THAT(data_error([&] { file->floats("a.ints"); }), HasSubstr("expected an array of floats"));
  EXPECT_THAT(data_error([&] { file->integers("a.strings"); }), HasSubstr("or an array of integers"));
  GgufBuilder huge;
  huge.set("x", std::numeric_limits<std::uint64_t>::max());
  EXPECT_THAT(data_error([&] { ParsedGguf(huge.build())->integer("x"); }), HasSubstr("expected an integer below 2^63"));
}

TEST(Gguf, RefusesOtherFormatsVersionsAndByteOrders) {
  EXPECT_THAT(data_error([] { ParsedGguf("ggjt\x03___________________"); }),
              HasSubstr("starts with \"ggjt\"; expected \"GGUF\""));
  EXPECT_THAT(data_error([] { ParsedGguf(""); }), HasSubstr("cut short"));
  GgufBuilder builder;
  builder.version = 1;
  EXPECT_THAT(error_of(builder), HasSubstr("has version 1; this build reads 2 and 3"));
  builder.version = 4;
  EXPECT_THAT(error_of(builder), HasSubstr("has version 4"));
  builder.version = 0x03000000;
  EXPECT_THAT(error_of(builder), HasSubstr("big-endian"));
  builder.version = 2;
  EXPECT_EQ(ParsedGguf(builder.build())->version(), 2u);
}

TEST(Gguf, RefusesEveryTruncation) {
  const std::string whole = small_file().build();
  const std::size_t needed = whole.size();
  for (std::size_t size = 0; size < needed; ++size) {
    const std::string message = data_error([&] { ParsedGguf{whole.substr(0, size)}; });
    EXPECT_THAT(message, AllOf(HasSubstr("x.gguf"), HasSubstr("cut short"))) << size;
  }
  EXPECT_NO_THROW(ParsedGguf{whole});
}

TEST(Gguf, RefusesCountsAndLengthsBeyondTheFile) {
  constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;
  const std::string start = "GGUF" + little_endian(3u);
  EXPECT_THAT(data_error([&] { ParsedGguf{start + little_endian<std::uint64_t>(0) + little_endian(kHuge)}; }),
              HasSubstr("claims 4611686018427387904 metadata values"));
  EXPECT_THAT(data_error([&] { ParsedGguf{start + little_endian(kHuge) + little_endian<std::uint64_t>(0)}; }),
              HasSubstr("claims 4611686018427387904 tensors"));
  GgufBuilder builder;
  builder.set_raw("k", 8, little_endian(kHuge));
  EXPECT_THAT(error_of(builder), HasSubstr("expected at most"));
  for (const std::uint32_t element_type : {0u, 6u, 8u, 9u, 12u}) {
    builder.set_raw("k", 9, little_endian(element_type) + little_endian(kHuge));
    EXPECT_THAT(error_of(builder), HasSubstr("claims 4611686018427387904")) << element_type;
  }
}

TEST(Gguf, RefusesBadMetadata) {
  GgufBuilder twice;
  twice.values = {{"a", 0, "x"}, {"a", 0, "y"}};
  EXPECT_THAT(error_of(twice), HasSubstr("the metadata key \"a\" appears twice"));
  EXPECT_THAT(error_of(GgufBuilder().set_raw("a", 13, "")), HasSubstr("has the value type 13; expected 0 to 12"));
  EXPECT_THAT(error_of(GgufBuilder().set_raw("a", 7, "\x02")), HasSubstr("is the boolean 2; expected 0 or 1"));
  EXPECT_THAT(error_of(GgufBuilder().set_raw("", 0, "x")), HasSubstr("metadata key 0 is empty"));
  EXPECT_THAT(error_of(GgufBuilder().set(std::string(70000, 'k'), true)), HasSubstr("expected at most 65535"));
  for (const char* bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82", "\x80"})
    EXPECT_THAT(error_of(GgufBuilder().set("a", bad)), HasSubstr("is not UTF-8"));
  std::string nested;
  for (int i = 0; i < 6; ++i) nested += little_endian(9u) + little_endian<std::uint64_t>(1);
  EXPECT_THAT(error_of(GgufBuilder().set_raw("a", 9, nested + std::string(64, '\0'))),
              HasSubstr("nests arrays deeper than 4"));
  for (const std::uint32_t bad : {0u, 3u, 48u})
    EXPECT_THAT(error_of(GgufBuilder().set("general.alignment", bad)), HasSubstr("expected a power of two"));
}

TEST(Gguf, HonoursTheAlignmentOfTheFile) {
  GgufBuilder builder;
  builder.alignment = 128;
  builder.set("general.alignment", std::uint32_t{128}).add_f32("a", {1}, {1.0f}).add_f32("b", {1}, {2.0f});
  const ParsedGguf file(builder.build());
  std::vector<float> value(1);
  dequantize(*file->find("b"), value);
  EXPECT_EQ(value[0], 2.0f);
}

TEST(Gguf, RefusesBadTensors) {
  const auto with = [](std::vector<std::uint64_t> sizes, std::uint32_t type) {
    GgufBuilder builder;
    builder.add_tensor("t", std::move(sizes), type, std::string(256, '\0'));
    return error_of(builder);
  };
  EXPECT_THAT(with({}, 0), HasSubstr("tensor \"t\" has 0 dimensions; expected 1 to 4"));
  EXPECT_THAT(with({1, 1, 1, 1, 1}, 0), HasSubstr("has 5 dimensions"));
  EXPECT_THAT(with({4, 0}, 0), HasSubstr("has a dimension of 0"));
  EXPECT_THAT(with({std::uint64_t{1} << 40, std::uint64_t{1} << 40}, 0), HasSubstr("more than 2^61 elements"));
  EXPECT_THAT(with({(std::uint64_t{1} << 63) + 4, 2}, 0), HasSubstr("more than 2^61 elements"));
  EXPECT_THAT(with({std::uint64_t{1} << 60}, 0), HasSubstr("needs 4611686018427387904 bytes at offset 0"));
  EXPECT_THAT(with({33}, 3), HasSubstr("has rows of 33 elements; Q4_1 needs a multiple of 32"));
  EXPECT_THAT(with({128}, 12), HasSubstr("Q4_K needs a multiple of 256"));
  EXPECT_THAT(with({65}, 0), HasSubstr("needs 260 bytes at offset 0 of the data, which has 256"));
  GgufBuilder twice;
  twice.add_f32("t", {1}, {1.0f}).add_f32("t", {1}, {1.0f});
  EXPECT_THAT(error_of(twice), HasSubstr("tensor \"t\" appears twice"));
  GgufBuilder overlap;
  overlap.add_f32("a", {64}, std::vector<float>(64)).add_f32("b", {1}, {1.0f}).tensors[1].offset = 224;
  EXPECT_THAT(error_of(overlap), HasSubstr("tensors \"a\" and \"b\" overlap"));
  GgufBuilder unaligned;
  unaligned.add_f32("a", {1}, {1.0f}).add_f32("b", {1}, {1.0f}).tensors[1].offset = 36;
  EXPECT_THAT(error_of(unaligned), HasSubstr("tensor \"b\" begins at offset 36; expected a multiple of 32"));
  unaligned.tensors[1].offset = std::uint64_t{1} << 63;
  const std::string header_only = unaligned.header() + std::string(64, '\0');
  EXPECT_THAT(data_error([&] { ParsedGguf{header_only}; }), HasSubstr("at offset 9223372036854775808"));
  GgufBuilder named;
  named.add_f32(std::string(65, 'n'), {1}, {1.0f});
  EXPECT_THAT(error_of(named), HasSubstr("has 65 bytes; expected at most 64"));
}

// Tensors of 4, 4 and 12 bytes: 28 bytes of padding between them.
GgufBuilder three_tensors() {
  GgufBuilder builder;
  builder.set("general.architecture", "llama");
  builder.add_f32("a", {1}, {1.0f}).add_f32("b", {1}, {2.0f}).add_f32("c", {3}, {3.0f, 4.0f, 5.0f});
  return builder;
}

TEST(Gguf, ZeroPaddingUpToTheAlignmentIsAllowedEverywhere) {
  std::string bytes = three_tensors().build();
  EXPECT_NO_THROW(ParsedGguf{bytes});
  EXPECT_NO_THROW(ParsedGguf{bytes + std::string(20, '\0')});  // the last tensor has 12 bytes
  GgufBuilder reordered = three_tensors();
  std::swap(reordered.tensors[0].offset, reordered.tensors[1].offset);
  EXPECT_EQ(ParsedGguf(reordered.build())->tensors().size(), 3u);
}

// The data would begin too early, and every tensor be read from a wrong place.
TEST(Gguf, ATensorCountThatIsTooSmallIsRefused) {
  const std::string whole = three_tensors().build();
  for (const std::uint64_t count : {0, 1, 2}) {
    std::string bytes = whole;
    bytes.replace(8, 8, little_endian(count));
    EXPECT_THAT(data_error([&] { ParsedGguf{bytes}; }),
                HasSubstr(fmt::format("do not belong to any of the {} tensors", count)));
  }
  // A name and shape of zeros look like padding; the bytes at the end do not.
  GgufBuilder zeros = three_tensors();
  zeros.tensors[2].data.assign(64, '\0');
  zeros.tensors[2].sizes = {16};
  std::string bytes = zeros.build();
  bytes.replace(8, 8, little_endian(std::uint64_t{2}));
  EXPECT_THAT(data_error([&] { ParsedGguf{bytes}; }), HasSubstr("do not belong to any of the 2 tensors"));
}

TEST(Gguf, EveryByteBelongsToATensorOrIsPadding) {
  const GgufBuilder builder = three_tensors();
  const std::string whole = builder.build();
  const std::size_t header = builder.header().size(), start = (header + 31) / 32 * 32;
  ASSERT_GT(start, header);
  const auto error_with_byte = [&](std::size_t place) {
    std::string bytes = whole;
    bytes[place] = 1;
    return data_error([&] { ParsedGguf{bytes}; });
  };
  EXPECT_THAT(error_with_byte(header), Says("bytes after the table...3 tensors"));
  EXPECT_THAT(error_with_byte(start + 4), Says("28 bytes before \"b\"...3 tensors"));
  EXPECT_THAT(data_error([&] { ParsedGguf{whole + std::string(21, '\0')}; }),
              Says("21 bytes at the end...3 tensors; expected at most 20 bytes"));
  EXPECT_THAT(data_error([&] { ParsedGguf{whole + "x"}; }),
              HasSubstr("1 bytes at the end of the file do not belong to any"));
  GgufBuilder hole = three_tensors();
  hole.tensors[2].offset += 32;
  EXPECT_THAT(error_of(hole), Says("60 bytes before \"c\"...3 tensors; expected at most 28"));
  hole = three_tensors();
  for (auto& tensor : hole.tensors) tensor.offset += 32;
  EXPECT_THAT(error_of(hole), HasSubstr("32 bytes before \"a\" do not belong to any"));
}

TEST(Gguf, RefusesUnsupportedTypesByNameAllAtOnce) {
  GgufBuilder builder;
  builder.add_tensor("a.weight", {256}, 23, std::string(136, '\0'));
  builder.add_tensor("b.weight", {256}, 10, std::string(84, '\0'));
  builder.add_tensor("c.weight", {256}, 99, std::string(84, '\0'));
  EXPECT_THAT(error_of(builder), AllOf(HasSubstr("3 faults"), HasSubstr("tensor \"a.weight\" is stored as IQ4_XS"),
                                       HasSubstr("tensor \"b.weight\" is stored as Q2_K"),
                                       HasSubstr("tensor \"c.weight\" is stored as type 99"),
                                       HasSubstr("F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.")));
}

// Looks at everything that a file offers.
void use(const GgufFile& file) {
  for (const std::string& key : file.keys()) {
    const auto ask = [&](auto&& question) {
      try {
        question();
      } catch (const DataError&) {
      }
    };
    ask([&] { file.string(key); });
    ask([&] { file.boolean(key); });
    ask([&] { file.integer(key); });
    ask([&] { file.number(key); });
    ask([&] { file.integers(key); });
    ask([&] { file.floats(key); });
    ask([&] { file.strings(key); });
  }
  for (const GgufTensor& tensor : file.tensors()) {
    std::vector<float> values(static_cast<std::size_t>(tensor.num_elements()));
    dequantize(tensor, values);
  }
}

TEST(Gguf, SurvivesMutations) {
  GgufBuilder builder = small_file();
  for (const std::uint32_t type : {2u, 3u, 6u, 7u, 8u, 12u, 13u, 14u, 30u}) {
    const GgmlBlock block = ggml_block(static_cast<GgmlType>(type));
    builder.add_tensor("q" + std::to_string(type), {256}, type,
                       std::string(static_cast<std::size_t>(256 / block.elements * block.bytes), '\x3c'));
  }
  const std::string whole = builder.build();
  const std::size_t header = builder.header().size();
  constexpr std::uint64_t kEdges[] = {
      0, 1, 0x7f, 0xff, 0x7fffffff, 0xffffffff, std::uint64_t{1} << 63, ~std::uint64_t{0}};
  std::mt19937 random(11);
  int num_read = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string bytes = whole;
    for (unsigned edit = 0; edit <= random() % 3; ++edit) {
      const std::size_t place = random() % (random() % 8 == 0 ? bytes.size() : header);
      const unsigned kind = random() % 4;
      if (kind == 0) {
        bytes[place] = static_cast<char>(random());
      } else if (kind == 1) {
        const std::string edge = little_endian(kEdges[random() % std::size(kEdges)]).substr(0, 1u << random() % 4);
        bytes.replace(place, std::min(edge.size(), bytes.size() - place), edge, 0, bytes.size() - place);
      } else if (kind == 2) {
        bytes.erase(place, random() % 9);
      } else {
        bytes.insert(place, bytes.substr(random() % bytes.size(), random() % 17));
      }
    }
    try {
      const ParsedGguf file(bytes);
      use(*file);
      ++num_read;
    } catch (const DataError&) {
    }
  }
  EXPECT_GT(num_read, 100) << "the mutations are too coarse to test anything behind the header";
}

}  // namespace
}  // namespace adept::io
