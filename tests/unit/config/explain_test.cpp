// What `adept config --explain` says of keys.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>
#include <string>
#include <vector>

#include "adept/config/types.h"
#include "adept/core/error.h"
#include "tests/support/reads.h"
#include "tests/unit/config/minimal_config.h"

namespace adept::config {
namespace {

using test::Reads;
using testing::HasSubstr;

/// The dotted keys of every value in the JSON form, indices replaced by N.
void collect_keys(const Json& value, const std::string& prefix, std::vector<std::string>& keys) {
  for (const auto& [key, member] : value.items()) {
    const std::string path = prefix.empty() ? key : prefix + "." + key;
    const bool sections = member.is_array() && !member.empty() && member[0].is_object();
    if (member.is_object()) collect_keys(member, path, keys);
    if (sections) collect_keys(member[0], path + ".N", keys);
    if (!member.is_object() && !sections) keys.push_back(path);
  }
}

TEST(Explain, NamesEveryKeyOnceInTheOrderOfTheDump) {
  std::vector<std::string> dumped, explained;
  collect_keys(to_json(minimal_with({"data.eval=[{name: e, path: p}]", "data.replay=[{name: r, path: p}]",
                                     "unit_lr.factors=[{units: \"*\", factor: 1}]"})),
               "", dumped);
  for (const KeyDoc& doc : all_keys()) explained.push_back(doc.key);
  EXPECT_EQ(explained, dumped);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(Explain, TheTableHasALineForEachKeyAndFitsTheWidth) {
  for (const std::size_t width : {80U, 100U, 500U}) {
    const std::vector<std::string> lines = lines_of(explain(width));
    ASSERT_EQ(lines.size(), all_keys().size() + 3);
    EXPECT_THAT(lines[0], testing::MatchesRegex("KEY +DEFAULT +MEANING"));
    for (std::size_t i = 0; i < all_keys().size(); ++i) {
      EXPECT_THAT(lines[i + 1], testing::StartsWith(all_keys()[i].key + " "));
      EXPECT_THAT(lines[i + 1], HasSubstr(all_keys()[i].doc.substr(0, 10)));
      EXPECT_LE(lines[i + 1].size(), width);
    }
    EXPECT_THAT(lines.back(), HasSubstr("adept config --explain KEY"));
  }
}

TEST(Explain, AKeyIsABlockWithAllThereIsToSay) {
  const std::vector<std::string> rate = {"train.learning_rate"};
  EXPECT_THAT(explain(rate, 100), testing::MatchesRegex("train.learning_rate\n"
                                                        "  type     number > 0\n"
                                                        "  default  0.0002\n"
                                                        "  meaning  [^\n]*learning rate[^\n]*\n"));
  std::vector<std::string> every;
  for (const KeyDoc& doc : all_keys()) every.push_back(doc.key);
  const std::string blocks = explain(every, 80);
  for (const std::string& line : lines_of(blocks)) EXPECT_LE(line.size(), 80U);
  std::string one_line;  // what was wrapped is joined again
  for (const char c : blocks)
    if (c != ' ' && c != '\n') one_line += c;
  for (const KeyDoc& doc : all_keys())
    for (const std::string& part : {doc.key, doc.type, doc.fallback, doc.unit, doc.doc}) {
      std::string text = part;
      std::erase(text, ' ');
      EXPECT_THAT(one_line, HasSubstr(text));
    }
}

TEST(Explain, SaysWhichMethodsUseAKey) {
  const std::vector<std::string> keys = {"expand.after", "unit_lr.factors"};
  const std::string text = explain(keys, 100);
  EXPECT_THAT(text, HasSubstr("\n  methods  adept, llama_pro\n"));
  EXPECT_EQ(text.find("methods "), text.rfind("methods ")) << "all methods use unit_lr.factors";
}

TEST(Explain, ASectionIsTheBlocksOfItsKeys) {
  const std::vector<std::string> section = {"lora"},
                                 whole = {"lora.rank", "lora.alpha", "lora.dropout", "lora.target_modules"};
  EXPECT_EQ(explain(section, 100), explain(whole, 100));
  const std::vector<std::string> list = {"data.eval"}, item = {"data.eval.N"}, first = {"data.eval.0"};
  EXPECT_THAT(explain(list, 100), HasSubstr("data.eval.N.role\n"));
  EXPECT_EQ(explain(list, 100), explain(item, 100));
  EXPECT_EQ(explain(list, 100), explain(first, 100));
}

TEST(Explain, AnUnknownKeyNamesWhatMayBeMeant) {
  const auto error_of = [](std::vector<std::string> names) -> std::string {
    try {
      explain(names, 100);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of({"learning_rate"}), Reads("--explain learning_rate: ...unknown key... train.learning_rate?"));
  EXPECT_THAT(error_of({"train.learning_rat"}),
              Reads("--explain train.learning_rat: ...unknown key... train.learning_rate?"));
  EXPECT_THAT(error_of({"trian"}), Reads("--explain trian: ...unknown key... train?"));
  EXPECT_THAT(error_of({"lr", "seed", "learning_rat"}),
              Reads("--explain lr: ...unknown key... train.learning_rate?\n"
                    "--explain learning_rat: ...unknown key... train.learning_rate?"));
  EXPECT_THAT(error_of({"colour"}), Reads("--explain colour: ...unknown key... adept config --explain..."));
}

TEST(Explain, EveryKeyCanBeSet) {
  const Json defaults = to_json(minimal_with({"data.eval=[{name: e, path: p}]", "data.replay=[{name: r, path: p}]",
                                              "unit_lr.factors=[{units: \"*\", factor: 1}]"}));
  for (const KeyDoc& doc : all_keys()) {
    std::string key = doc.key, pointer = "/" + key;
    if (const auto index = key.find(".N."); index != std::string::npos) key[index + 1] = '0';
    pointer = "/" + key;
    std::replace(pointer.begin(), pointer.end(), '.', '/');
    // One value per type that is not the default.
    std::string value = "other";
    if (doc.type.starts_with("integer") || doc.type.starts_with("number")) value = "0.75";
    if (doc.type.starts_with("integer")) value = "9";
    if (doc.type.starts_with("list of integers")) value = "[1,2]";
    if (key == "lora.target_modules") value = "q_proj";
    if (key.ends_with(".template")) value = "'{other}'";
    if (doc.type.find('|') != std::string::npos) {
      const std::string first = doc.type.substr(0, doc.type.find('|')), rest = doc.type.substr(first.size() + 1);
      value = doc.fallback.starts_with(first) ? rest.substr(0, rest.find('|')) : first;
    }
    std::vector<std::string> overrides = {"data.eval=[{name: e, path: p}]", "data.replay=[{name: r, path: p}]",
                                          "unit_lr.factors=[{units: \"*\", factor: 1}]"};
    if (key.ends_with(".train_on")) overrides.push_back(key.substr(0, key.rfind('.')) + ".messages_field=m");
    overrides.push_back(key + "=" + value);
    const Json changed = to_json(minimal_with(overrides));
    const Json::json_pointer at(pointer);
    EXPECT_NE(changed.at(at), defaults.at(at)) << key << "=" << value;
  }
}

}  // namespace
}  // namespace adept::config
