#include "adept/core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>

#include "adept/core/error.h"
#include "adept/core/signals.h"
#include "adept/core/signals_detail.h"
#include "tests/support/sanitizers.h"

namespace adept {
namespace {

using testing::HasSubstr;

template <typename Function>
std::string data_error(Function&& function) {
  try {
    function();
  } catch (const DataError& error) {
    return error.what();
  }
  return "no DataError";
}

std::string parse_error(std::string_view text) {
  return data_error([&] { parse_json(text, "config.json"); });
}

TEST(Json, KeepsTheOrderOfKeys) {
  EXPECT_EQ(parse_json(R"({"z": 1, "a": {"y": 2, "b": 3}})", "x").dump(), R"({"z":1,"a":{"y":2,"b":3}})");
  EXPECT_EQ(parse_sorted_json(R"({"z": 1, "a": 2})", "x").dump(), R"({"a":2,"z":1})");
}

TEST(Json, RefusesDuplicateKeysAtEveryLevel) {
  EXPECT_THAT(parse_error(R"({"a": 1, "a": 1})"), HasSubstr("config.json: the key \"a\" appears twice in one object"));
  EXPECT_THAT(parse_error(R"({"x": [{"a": 1, "b": 2, "a": 3}]})"), HasSubstr("the key \"a\" appears twice"));
  EXPECT_THAT(parse_error(R"({"a": {}, "\u0061": 3})"), HasSubstr("the key \"a\" appears twice"));
  EXPECT_NO_THROW(parse_json(R"({"a": {"a": {"a": 1}}, "b": {"a": 2}, "c": [{"a": 1}, {"a": 1}]})", "x"));
}

TEST(Json, RefusesWhatIsNotJsonWithThePlace) {
  EXPECT_THAT(parse_error("{\"a\": 1,\n \"b\": }"),
              testing::AllOf(HasSubstr("config.json"), HasSubstr("line 2, column 7")));
  EXPECT_THAT(parse_error(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(parse_error("{} {}"), HasSubstr("not valid JSON: line 1, column 4: found '{'; expected end of input"));
  EXPECT_THAT(parse_error("{\"a\": tru}"), HasSubstr("tru}'; expected a JSON value"));
  EXPECT_THAT(parse_error("[1, 2"), HasSubstr("line 1, column 6: found the end of input; expected ']'"));
  EXPECT_THAT(parse_error("{\"a\": \"\xff\"}"), HasSubstr("ill-formed UTF-8"));
  EXPECT_THAT(parse_error("{\"a\": 1e999}"),
              testing::AllOf(HasSubstr("not valid JSON: number overflow"), testing::Not(HasSubstr("exception"))));
  EXPECT_THAT(parse_error(std::string_view("{}\0garbage", 10)), HasSubstr("a NUL at byte 2"));
}

TEST(Json, NamesOtherEncodings) {
  using namespace std::string_view_literals;
  EXPECT_THAT(parse_error("\xff\xfe{\0}\0"sv), HasSubstr("config.json: found UTF-16 text; expected UTF-8"));
  EXPECT_THAT(parse_error("{\0\"\0a\0\"\0:\0"sv), HasSubstr("found UTF-16 text"));
  EXPECT_THAT(parse_error("\xff\xfe\0\0{\0\0\0"sv), HasSubstr("found UTF-32 text"));
}

TEST(Json, ASignalEndsTheParsingOfLargeFilesOnly) {
  std::string large = "[1";
  for (int i = 0; i < 100'000; ++i) large += ",1";
  large += "]";
  EXPECT_EQ(parse_json(large, "x").size(), 100'001u);
  install_signal_handlers();
  std::raise(SIGINT);
  EXPECT_THROW(parse_json(large, "x"), InterruptedError);
  EXPECT_THROW(parse_sorted_json(large, "x"), InterruptedError);
  EXPECT_EQ(parse_json(R"({"what": "is saved after a signal"})", "x").size(), 1u);
  detail::forget_signal();
}

TEST(Json, RefusesDeepNestingWithoutExhaustingTheStack) {
  EXPECT_NO_THROW(parse_json(std::string(200, '[') + std::string(200, ']'), "x"));
  EXPECT_THAT(parse_error(std::string(5'000'000, '[')), HasSubstr("nested deeper than 256 levels"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_THAT(parse_error(objects), HasSubstr("nested deeper than 256 levels"));
}

TEST(Json, LargeObjectsAreRefusedWhereLookUpsAreLinearAndReadWhereTheyAreNot) {
  std::string text = "{";
  for (int i = 0; i < 100'000; ++i) text += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":" + std::to_string(i);
  text += "}";
  EXPECT_THAT(parse_error(text), HasSubstr("more than 20000 keys"));
  EXPECT_EQ(parse_sorted_json(text, "x").at("99999"), 99'999);
}

TEST(Json, ReadsLongArraysOfObjectsInLinearTime) {
  std::string text = "[";
  const std::size_t size = test::large(500'000);
  for (std::size_t i = 0; i < size; ++i) text += "{\"id\": 1, \"a\": []},";
  text += "{}]";
  EXPECT_EQ(parse_json(text, "x").size(), size + 1);
  EXPECT_EQ(parse_sorted_json(text, "x").size(), size + 1);
  EXPECT_THAT(parse_error(text.substr(0, text.size() - 2) + "\"a\": 1, \"a\": 2}]"), HasSubstr("\"a\" appears twice"));
}

TEST(Json, ReadsEveryKindOfValueAtEveryPlace) {
  for (const char* text : {"null", "true", "-3", "18446744073709551615", "2.5", "\"x\"", "[]", "{}",
                           "[[[]],{\"a\":{}}]", "{\"b\":[1,{\"c\":null}],\"a\":{\"d\":[]}}"})
    EXPECT_EQ(parse_json(text, "x").dump(), text);
  std::string many = "{";  // more keys than are compared one by one
  for (int i = 40; i > 0; --i) many += "\"" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  EXPECT_EQ(parse_json(many + "\"0\":0}", "x").dump(), many + "\"0\":0}");
  EXPECT_THAT(parse_error(many + "\"40\":0}"), HasSubstr("the key \"40\" appears twice"));
  EXPECT_THAT(parse_error(many + "\"1\":0}"), HasSubstr("the key \"1\" appears twice"));
}

TEST(Json, FaultsInHugeTokensGiveShortMessages) {
  EXPECT_LT(parse_error("{\"" + std::string(1'000'000, 'a')).size(), 1000);
  const std::string key = "\"" + std::string(1'000'000, 'a') + "\":1";
  EXPECT_LT(parse_error("{" + key + "," + key + "}").size(), 1000);
}

TEST(Json, UnreadableFilesAreDataErrorsWithThePath) {
  const std::string directory = testing::TempDir();
  EXPECT_THAT(data_error([] { read_json("/nonexistent/config.json"); }),
              HasSubstr("/nonexistent/config.json: cannot open for reading: No such file"));
  EXPECT_THAT(data_error([&] { read_json(directory); }), HasSubstr("is a folder; expected a regular file"));
  EXPECT_THAT(data_error([] { read_json("/dev/zero"); }), HasSubstr("/dev/zero: is a device; expected"));
  const std::string large = directory + "/adept_large.json";
  std::ofstream(large).close();
  std::filesystem::resize_file(large, kMaxJsonBytes + 1);
  EXPECT_THAT(data_error([&] { read_json(large); }), HasSubstr("adept_large.json: larger than 268435456 bytes"));
  std::filesystem::remove(large);
}

TEST(Json, ReadsAFile) {
  const std::string path = testing::TempDir() + "/adept_json_test.json";
  std::ofstream(path) << "{\"b\": [1, 2.5, null], \"a\": \"\xc3\xa9\"}\n";
  EXPECT_EQ(read_json(path).dump(), "{\"b\":[1,2.5,null],\"a\":\"\xc3\xa9\"}");
  std::remove(path.c_str());
}

}  // namespace
}  // namespace adept
