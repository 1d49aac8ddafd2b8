#include "adept/io/safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <limits>
#include <numeric>

#include "tests/unit/io/support.h"

namespace adept::io {
namespace {

using test::data_error;
using test::make_tensor;
using test::OwnedTensor;
using test::TemporaryDirectory;
using testing::AllOf;
using testing::HasSubstr;

// A file of this header (its length filled in) and this many bytes of data.
std::string file_of(std::string_view header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), sizeof(length));
  text += header;
  for (std::size_t i = 0; i < data_bytes; ++i) text += static_cast<char>(i);
  return text;
}

std::string with_length(std::uint64_t length, std::string_view rest) {
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + std::string(rest);
}

std::string entry(std::string_view name, std::string_view shape, int begin, int end, std::string_view dtype = "F32") {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", name, dtype, shape, begin, end);
}

struct Fault {
  const char* name;
  std::string contents;
  const char* expected;
};

std::vector<Fault> length_faults() {
  return {
      {"empty file", "", "has 0 bytes; expected at least 8"},
      {"cut length", "1234567", "has 7 bytes; expected at least 8"},
      {"length 0", with_length(0, "{}"), "the header starts with nothing; expected '{'"},
      {"length 1", with_length(1, "{}"), "not valid JSON"},
      {"length beyond file", with_length(3, "{}"), "given as 3 bytes, but only 2 follow"},
      {"length above limit", with_length(100'000'001, "{}"), "given as 100000001 bytes; expected at most 100000000"},
      {"length 2^63", with_length(std::uint64_t{1} << 63, "{}"),
       "given as 9223372036854775808 bytes; expected at most"},
      {"length 2^64-1", with_length(std::numeric_limits<std::uint64_t>::max(), "{}"),
       "given as 18446744073709551615 bytes; expected at most"},
      {"lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "`git lfs pull`"},
  };
}

std::vector<Fault> json_faults() {
  return {
      {"array", file_of("[]", 0), "the header starts with \"[\"; expected '{'"},
      {"leading space", file_of(" {}", 0), "the header starts with \" \"; expected '{'"},
      {"byte order mark", file_of("\xef\xbb\xbf{}", 0), "expected '{'"},
      {"not closed", file_of(R"({"a":)", 0), "not valid JSON at byte"},
      {"two values", file_of("{}{}", 0), "not valid JSON at byte"},
      {"trailing comma", file_of("{" + entry("a", "[1]", 0, 4) + ",}", 4), "not valid JSON at byte"},
      {"comment", file_of("{/**/}", 0), "not valid JSON at byte"},
      {"not UTF-8", file_of("{" + entry("\xff", "[1]", 0, 4) + "}", 4), "ill-formed UTF-8"},
      {"surrogate half", file_of("{" + entry("\\ud800", "[1]", 0, 4) + "}", 4), "surrogate"},
      {"NUL padding", file_of(std::string_view("{}\0\0\0\0\0\0", 8), 0), "a NUL at byte 10"},
      {"deep in a shape", file_of("{\"a\":{\"dtype\":\"F32\",\"shape\":" + std::string(3'000'000, '['), 0),
       "tensor \"a\": shape has an array; expected integers >= 0"},
      {"deep in metadata", file_of(R"({"__metadata__":{"a":{"a":{"a":)", 0), "__metadata__ has an object for \"a\""},
      {"deep tensor", file_of(R"({"a":{"dtype":{"a":)", 0), "dtype is an object; expected a string"},
  };
}

std::vector<Fault> entry_faults() {
  return {
      {"tensor no object", file_of(R"({"a":[1]})", 0), "tensor \"a\": is an array; expected an object"},
      {"tensor null", file_of(R"({"a":null})", 0), "tensor \"a\": is null; expected an object"},
      {"no dtype", file_of(R"({"a":{"shape":[],"data_offsets":[0,0]}})", 0), "tensor \"a\": has no dtype"},
      {"no shape", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "tensor \"a\": has no shape"},
      {"no offsets", file_of(R"({"a":{"dtype":"F32","shape":[1]}})", 4), "tensor \"a\": has no data_offsets"},
      {"unknown key", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"scale":2}})", 4),
       "tensor \"a\": has the unknown key \"scale\""},
      {"unknown dtype", file_of("{" + entry("a", "[1]", 0, 1, "F8_E8M0") + "}", 1),
       "dtype \"F8_E8M0\" is unknown to this build; expected one of BOOL, U8"},
      {"lower-case dtype", file_of("{" + entry("a", "[1]", 0, 4, "f32") + "}", 4), "dtype \"f32\" is unknown"},
      {"dtype number", file_of(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4), "dtype is 32"},
      {"shape number", file_of("{" + entry("a", "1", 0, 4) + "}", 4), "shape is 1; expected an array of integers"},
      {"shape string", file_of("{" + entry("a", "[\"1\"]", 0, 4) + "}", 4), "shape has \"1\"; expected integers"},
      {"negative dimension", file_of("{" + entry("a", "[-1]", 0, 4) + "}", 4), "shape has -1; expected integers"},
      {"fraction", file_of("{" + entry("a", "[1.0]", 0, 4) + "}", 4), "shape has 1.0; expected integers"},
      {"exponent", file_of("{" + entry("a", "[1e0]", 0, 4) + "}", 4), "shape has 1e0; expected integers"},
      {"endless number", file_of("{" + entry("a", "[1." + std::string(1'000'000, '0') + "]", 0, 4) + "}", 4),
       "shape has 1.0000"},
      {"endless name", file_of("{" + entry(std::string(1'000'000, 'n'), "[-1]", 0, 4) + "}", 4),
       "nnn...\": shape has -1"},
      {"endless dtype", file_of("{" + entry("a", "[1]", 0, 4, std::string(1'000'000, 'n')) + "}", 4),
       "nnn...\" is unknown"},
      {"2^63", file_of("{" + entry("a", "[9223372036854775808]", 0, 4) + "}", 4), "expected less than 2^63"},
      {"2^64", file_of("{" + entry("a", "[18446744073709551616]", 0, 4) + "}", 4), "expected integers >= 0"},
      {"overflow", file_of("{" + entry("a", "[4294967296,4294967296]", 0, 4) + "}", 4), "is larger than 2^63 bytes"},
      {"overflow by dtype", file_of("{" + entry("a", "[4611686018427387904]", 0, 4) + "}", 4), "larger than 2^63"},
      {"overflow beside 0", file_of("{" + entry("a", "[0,4294967296,4294967296]", 0, 0) + "}", 0), "larger than 2^63"},
      {"wraps to fit", file_of("{" + entry("a", "[4611686018427387905]", 0, 4) + "}", 4), "larger than 2^63"},
      {"offsets number", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":4}})", 4), "data_offsets is 4"},
      {"one offset", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}})", 4), "has 1 number; expected"},
      {"no offset", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[]}})", 4), "has 0 numbers; expected"},
      {"three offsets", file_of(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4), "more than two"},
      {"negative offset", file_of("{" + entry("a", "[1]", -4, 0) + "}", 4), "data_offsets has -4; expected integers"},
      {"begin after end", file_of("{" + entry("a", "[1]", 4, 0) + "}", 4), "[4, 0] end before they begin"},
      {"size", file_of("{" + entry("a", "[3]", 0, 8) + "}", 8),
       "shape [3] of F32 needs 12 bytes, but data_offsets [0, 8] hold 8"},
      {"scalar size", file_of("{" + entry("a", "[]", 0, 8) + "}", 8), "shape [] of F32 needs 4 bytes"},
      {"empty size", file_of("{" + entry("a", "[0]", 0, 4) + "}", 4), "shape [0] of F32 needs 0 bytes"},
  };
}

std::vector<Fault> duplicate_and_metadata_faults() {
  return {
      {"tensor twice", file_of("{" + entry("a", "[1]", 0, 4) + "," + entry("a", "[1]", 4, 8) + "}", 8),
       "the key \"a\" appears twice in the header"},
      {"tensor twice, escaped", file_of("{" + entry("a", "[0]", 0, 0) + "," + entry("\\u0061", "[0]", 0, 0) + "}", 0),
       "the key \"a\" appears twice in the header"},
      {"field twice", file_of(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
       "the key \"dtype\" appears twice in tensor \"a\""},
      {"metadata twice", file_of(R"({"__metadata__":{},"__metadata__":{}})", 0), "\"__metadata__\" appears twice"},
      {"metadata key twice", file_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
       "\"k\" appears twice in __metadata__"},
      {"metadata array", file_of(R"({"__metadata__":["a"]})", 0), "__metadata__ is an array; expected an object"},
      {"metadata null", file_of(R"({"__metadata__":null})", 0), "__metadata__ is null; expected an object"},
      {"metadata number", file_of(R"({"__metadata__":{"step":3}})", 0), "__metadata__ has 3 for \"step\""},
      {"metadata null value", file_of(R"({"__metadata__":{"step":null}})", 0), "__metadata__ has null for \"step\""},
      {"metadata true", file_of(R"({"__metadata__":{"step":true}})", 0), "__metadata__ has true for \"step\""},
  };
}

std::vector<Fault> layout_faults() {
  const std::string a = entry("a", "[1]", 0, 4), b = entry("b", "[1]", 4, 8);
  return {
      {"cut short", file_of("{" + a + "," + b + "}", 7),
       "tensor \"b\": data_offsets [4, 8] reach beyond the 7 bytes of data"},
      {"trailing data", file_of("{" + a + "," + b + "}", 9),
       "the tensors end at byte 8 of the data, but the file has 9"},
      {"data without tensors", file_of("{}", 1), "the tensors end at byte 0 of the data, but the file has 1"},
      {"overlap", file_of("{" + a + "," + entry("b", "[1]", 2, 6) + "}", 6), "[2, 6] overlap tensor \"a\""},
      {"the same bytes", file_of("{" + a + "," + entry("b", "[1]", 0, 4) + "}", 4), "[0, 4] overlap tensor \"a\""},
      {"hole", file_of("{" + a + "," + entry("b", "[1]", 8, 12) + "}", 12), "leave a gap of 4 bytes before it"},
      {"hole at the start", file_of("{" + entry("a", "[1]", 1, 5) + "}", 5), "leave a gap of 1 bytes before it"},
      {"empty tensor in a hole", file_of("{" + a + "," + entry("b", "[0]", 5, 5) + "}", 5), "leave a gap of 1 bytes"},
      {"empty tensor inside another", file_of("{" + a + "," + entry("b", "[0]", 2, 2) + "}", 4),
       "overlap tensor \"a\""},
      {"empty tensor beyond", file_of("{" + a + "," + entry("b", "[0]", 8, 8) + "}", 4), "reach beyond the 4 bytes"},
  };
}

void expect_refused(const std::vector<Fault>& faults) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  for (const Fault& fault : faults) {
    test::write(path, fault.contents);
    const std::string message = data_error([&] { SafetensorsFile::open(path); });
    EXPECT_THAT(message, AllOf(HasSubstr(path.string() + ": "), HasSubstr(fault.expected))) << fault.name;
    EXPECT_LT(message.size(), 1500U) << fault.name;
  }
}

TEST(Safetensors, RefusesWrongHeaderLengths) { expect_refused(length_faults()); }
TEST(Safetensors, RefusesHeadersThatAreNotOneJsonObject) { expect_refused(json_faults()); }
TEST(Safetensors, RefusesIncompleteOrImpossibleTensors) { expect_refused(entry_faults()); }
TEST(Safetensors, RefusesDuplicateKeysAndMetadataOtherThanStrings) { expect_refused(duplicate_and_metadata_faults()); }
TEST(Safetensors, RefusesOverlapsHolesAndWrongEnds) { expect_refused(layout_faults()); }

TEST(Safetensors, RefusesMoreDimensionsThanAnyTensorHas) {
  std::string shape = "[1";
  for (int i = 1; i < 65; ++i) shape += ",1";
  expect_refused({{"65 dimensions", file_of("{" + entry("a", shape + "]", 0, 4) + "}", 4), "more than 64 dimensions"}});
}

TEST(Safetensors, RefusesEveryTruncation) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  const std::string whole = file_of("{" + entry("a", "[2,3]", 0, 24) + "," + entry("b", "[]", 24, 28) + "}", 28);
  test::write(path, whole);
  ASSERT_NO_THROW(SafetensorsFile::open(path));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    test::write(path, std::string_view(whole).substr(0, size));
    EXPECT_THAT(data_error([&] { SafetensorsFile::open(path); }), HasSubstr(path.string())) << size;
  }
}

TEST(Safetensors, RefusesWhatIsNoFile) {
  const TemporaryDirectory directory;
  EXPECT_THAT(data_error([&] { SafetensorsFile::open(directory / "none"); }), HasSubstr("No such file"));
  EXPECT_THAT(data_error([&] { SafetensorsFile::open(directory.path()); }), HasSubstr("is a folder; expected"));
  EXPECT_THAT(data_error([&] { SafetensorsFile::open("/dev/zero"); }), HasSubstr("is a device; expected"));
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  const TemporaryDirectory directory;
  const auto path = directory / "x.safetensors";
  test::write(path, file_of("{}", 0));
  EXPECT_TRUE(SafetensorsFile::open(path)->tensors().empty());

  // Padding, metadata in the middle, an order that is not that of the bytes, empty tensors, a scalar, odd alignment.
  test::write(path, file_of("{" + entry("b", "[2,0,3]", 5, 5) + "," + entry("c", "[1]", 4, 5, "U8") +
                                R"(,"__metadata__":{"format":"pt","":"x"},)" +
                                entry("\\u00e9\\n", "[2]", 5, 9, "BF16") + "," + entry("a", "[]", 0, 4) + "}     ",
                            9));
  const auto file = SafetensorsFile::open(path);
  ASSERT_EQ(file->tensors().size(), 4U);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->tensors()[1].name, "c");
  EXPECT_EQ(file->tensors()[2].name, "b");
  EXPECT_EQ(file->tensors()[3].name, "\xc3\xa9\n");
  EXPECT_EQ(file->metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"", "x"}}));
  EXPECT_EQ(file->find("a")->num_elements(), 1);
  EXPECT_EQ(file->find("b")->num_elements(), 0);
  EXPECT_EQ(file->find("\xc3\xa9\n")->data[0], std::byte{5});
  EXPECT_EQ(describe(*file->find("b")), "F32 [2, 0, 3]");
  EXPECT_EQ(file->find("d"), nullptr);
}

TEST(Safetensors, TellsWhetherDataMayBeUsedInPlace) {
  const TemporaryDirectory directory;
  test::write(directory / "x", file_of("{" + entry("a", "[1]", 0, 4) + "," + entry("b", "[1]", 4, 5, "U8") + "}  ", 5));
  const auto file = SafetensorsFile::open(directory / "x");
  const auto offset = file->tensors()[0].data.data() - static_cast<const std::byte*>(nullptr);
  EXPECT_EQ(file->find("a")->is_aligned(), offset % 4 == 0);
  EXPECT_TRUE(file->find("b")->is_aligned());
}

std::vector<OwnedTensor> tensors_of_every_dtype() {
  std::vector<OwnedTensor> tensors;
  for (int i = 0; i <= static_cast<int>(DType::kF8E5M2); ++i) {
    const auto dtype = static_cast<DType>(i);
    tensors.push_back(make_tensor(fmt::format("t{}.odd", i), dtype, {3, 5}, static_cast<unsigned>(i)));
    tensors.push_back(make_tensor(fmt::format("t{}.scalar \"\\\n\xc3\xa9", i), dtype, {}, static_cast<unsigned>(i)));
    tensors.push_back(make_tensor(fmt::format("t{}.empty", i), dtype, {4, 0}, 0));
  }
  return tensors;
}

std::vector<TensorView> views_of(const std::vector<OwnedTensor>& tensors) {
  std::vector<TensorView> views;
  for (const OwnedTensor& tensor : tensors) views.push_back(tensor.view);
  return views;
}

TEST(Safetensors, WrittenTensorsComeBackTheSameAndAligned) {
  const TemporaryDirectory directory;
  const auto tensors = tensors_of_every_dtype();
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "\"quotes\" and \n"}};
  write_safetensors(directory / "x.safetensors", views_of(tensors), metadata);
  const auto file = SafetensorsFile::open(directory / "x.safetensors");
  EXPECT_EQ(file->metadata(), metadata);
  ASSERT_EQ(file->tensors().size(), tensors.size());
  for (const OwnedTensor& tensor : tensors) {
    const TensorView* found = file->find(tensor.view.name);
    ASSERT_NE(found, nullptr) << tensor.view.name;
    EXPECT_EQ(found->dtype, tensor.view.dtype);
    EXPECT_EQ(found->shape, tensor.view.shape);
    EXPECT_TRUE(test::same_bytes(found->data, tensor.bytes)) << tensor.view.name;
    EXPECT_TRUE(found->is_aligned()) << tensor.view.name;
  }
  EXPECT_EQ(test::names_in(directory.path()), std::set<std::string>{"x.safetensors"});
}

TEST(Safetensors, TheFileDoesNotDependOnTheOrderGiven) {
  const TemporaryDirectory directory;
  const auto tensors = tensors_of_every_dtype();
  auto views = views_of(tensors);
  write_safetensors(directory / "a", views);
  std::reverse(views.begin(), views.end());
  write_safetensors(directory / "b", views);
  EXPECT_EQ(test::read(directory / "a"), test::read(directory / "b"));
}

TEST(Safetensors, AFileInPiecesIsTheSameAndAppearsWhenItIsWhole) {
  const TemporaryDirectory directory;
  const auto tensors = tensors_of_every_dtype();
  write_safetensors(directory / "a", views_of(tensors));
  {
    std::vector<TensorView> views = views_of(tensors);
    std::string bytes;
    SafetensorsWriter writer(directory / "b", views);
    for (const TensorView& tensor : writer.tensors())
      bytes.append(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
    const std::span<const std::byte> all = std::as_bytes(std::span(bytes));
    writer.write(all.first(5));
    writer.write(all.subspan(5, all.size() - 6));
    EXPECT_THROW(writer.commit(), InternalError) << "one byte is missing";
    EXPECT_FALSE(std::filesystem::exists(directory / "b"));
    writer.write(all.last(1));
    writer.commit();
  }
  EXPECT_EQ(test::read(directory / "a"), test::read(directory / "b"));
  SafetensorsWriter(directory / "c", views_of(tensors));
  EXPECT_EQ(test::names_in(directory.path()), (std::set<std::string>{"a", "b"}));
}

TEST(Safetensors, NoTensorsAndNoMetadataAreAFileToo) {
  const TemporaryDirectory directory;
  write_safetensors(directory / "x", {}, {});
  EXPECT_EQ(test::read(directory / "x"), with_length(8, "{}      "));
  write_safetensors(directory / "y", {});
  EXPECT_EQ(SafetensorsFile::open(directory / "y")->metadata().at("format"), "pt");
}

TEST(Safetensors, WriterRefusesWhatItCouldNotReadBack) {
  const TemporaryDirectory directory;
  const auto a = make_tensor("a", DType::kF32, {2}, 1);
  auto wrong = a.view;
  wrong.shape = {3};
  EXPECT_THROW(write_safetensors(directory / "x", std::vector{wrong}), InternalError);
  EXPECT_THROW(write_safetensors(directory / "x", std::vector{a.view, a.view}), InternalError);
  auto named = a.view;
  named.name = "\xff";
  EXPECT_THAT(data_error([&] { write_safetensors(directory / "x", std::vector{named}); }), HasSubstr("is not UTF-8"));
  named.name = "__metadata__";
  EXPECT_THROW(write_safetensors(directory / "x", std::vector{named}), InternalError);
  named.name = std::string(100'000'000, 'n');
  EXPECT_THAT(data_error([&] { write_safetensors(directory / "x", std::vector{named}); }),
              HasSubstr("the header would have 1000000"));
  EXPECT_TRUE(test::names_in(directory.path()).empty());
}

TEST(Safetensors, ReplacingAMappedFileLeavesTheMappingIntact) {
  const TemporaryDirectory directory;
  const auto old_tensor = make_tensor("a", DType::kF32, {1000}, 1), new_tensor = make_tensor("a", DType::kF32, {10}, 2);
  write_safetensors(directory / "x", std::vector{old_tensor.view});
  const auto file = SafetensorsFile::open(directory / "x");
  write_safetensors(directory / "x", std::vector{new_tensor.view});
  EXPECT_TRUE(test::same_bytes(file->find("a")->data, old_tensor.bytes));
  EXPECT_TRUE(test::same_bytes(SafetensorsFile::open(directory / "x")->find("a")->data, new_tensor.bytes));
}

TEST(Safetensors, WriterKeepsNoCopyOfTheTensors) {
  const TemporaryDirectory directory;
  const auto peak_kib = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const auto tensor = make_tensor("a", DType::kU8, {96 << 20}, 1);
  const auto before = peak_kib();
  write_safetensors(directory / "x", std::vector{tensor.view});
  EXPECT_LT(peak_kib() - before, 32 << 10);
}

}  // namespace
}  // namespace adept::io
