#include "adept/data/chat_template.h"

#include <gmock/gmock.h>

#include <fstream>

#include "adept/core/error.h"
#include "tests/support/temporary_directory.h"

namespace adept::data {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const Json kMessages = Json::parse(R"([{"role": "system", "content": "é"}, {"role": "user", "content": "<b>"}])");

ChatTemplate make_template(const test::TemporaryDirectory& directory, const std::string& source) {
  std::ofstream(directory / "tokenizer_config.json") << R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})";
  std::ofstream(directory / "chat_template.jinja") << source;
  return ChatTemplate::from_model_dir(directory.path());
}

TEST(ChatTemplate, IsRenderedWithMessagesAndNamedTokens) {
  const test::TemporaryDirectory directory;
  const ChatTemplate chat_template = make_template(
      directory,
      "{{ bos_token }}\n{% for message in messages %}\n  [{{ message.role }}] {{ message['content'] | tojson }}\n"
      "{% endfor %}\n{%- if add_generation_prompt %}\n{{ eos_token }}{% endif %}\n");
  EXPECT_EQ(chat_template.render(kMessages), "<s>\n  [system] \"é\"\n  [user] \"<b>\"\n</s>");
}

TEST(ChatTemplate, SaysWhereItFailsOrRefuses) {
  const test::TemporaryDirectory directory;
  const std::string file = (directory / "chat_template.jinja").string();
  EXPECT_THAT([&] { make_template(directory, "\n{% for %}").render(kMessages); },
              ThrowsMessage<DataError>(HasSubstr(file + ":2: the chat template cannot be rendered: ")));
  EXPECT_THAT([&] { make_template(directory, "a\n\n{{ raise_exception('no system') }}").render(kMessages); },
              ThrowsMessage<DataError>(file + ":3: the chat template refuses these messages: no system"));
}

TEST(ChatTemplate, OfAModelWithoutOneIsAnError) {
  const test::TemporaryDirectory directory;
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("has no chat template")));
  std::filesystem::create_symlink("nowhere", directory / "chat_template.jinja");
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("chat_template.jinja: cannot be read")));
}

TEST(ChatTemplate, TakesMessagesWithRolesOnly) {
  EXPECT_NO_THROW(check_messages(kMessages, "chat.json"));
  for (const char* wrong : {"[]", "{}", "\"a\"", R"([{"content": "a"}])", R"([{"role": 1}])", "[1]"})
    EXPECT_THAT([&] { check_messages(Json::parse(wrong), "chat.json"); },
                ThrowsMessage<ConfigError>(HasSubstr("chat.json: ")))
        << wrong;
}

}  // namespace
}  // namespace adept::data
