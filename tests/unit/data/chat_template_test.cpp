#include "adept/data/chat_template.h"

#include <gmock/gmock.h>

#include <fstream>

#include "adept/core/error.h"
#include "tests/support/captured_log.h"
#include "tests/support/temporary_directory.h"

namespace adept::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
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

TEST(ChatTemplate, GivesConversationsTheSameDateOnEveryDay) {
  const test::TemporaryDirectory directory;
  const ChatTemplate chat_template = make_template(directory, "{{ strftime_now('%d %b %Y %H:%M') }}");
  EXPECT_EQ(chat_template.render_conversations({&kMessages, 1}).front().text, "26 Jul 2024 12:00");
  EXPECT_THAT(chat_template.render(kMessages), Not(HasSubstr("2024"))) << "a prompt has the date of today";
}

TEST(ChatTemplate, SaysWhereItFailsOrRefuses) {
  const test::TemporaryDirectory directory;
  const std::string file = (directory / "chat_template.jinja").string();
  EXPECT_THAT([&] { make_template(directory, "\n{% for %}").render(kMessages); },
              ThrowsMessage<DataError>(HasSubstr(file + ":2: the chat template cannot be rendered: ")));
  EXPECT_THAT([&] { make_template(directory, "a\n\n{{ raise_exception('no system') }}").render(kMessages); },
              ThrowsMessage<DataError>(file + ":3: the chat template rejects these messages: no system"));
}

TEST(ChatTemplate, LeavesOutNoTextUnnoticed) {
  const test::TemporaryDirectory directory;
  const Json messages = Json::parse(
      R"([{"role": "system", "content": "be brief"}, {"role": "user", "content": "\n  one \n\"two\"\n"},
          {"role": "assistant", "content": "gone"},
          {"role": "user", "content": [{"type": "text", "text": "three"}]}])");
  const auto warnings_of = [&](const std::string& source) {
    const test::CapturedLog log;
    make_template(directory, source).render(messages);
    return log.text();
  };
  const std::string file = (directory / "chat_template.jinja").string();
  EXPECT_EQ(warnings_of("{{ messages | tojson }}"), "");
  EXPECT_EQ(warnings_of("be brief{{ messages[1].content | trim }}{{ messages[3].content[0].text }}"), "");
  EXPECT_THAT(warnings_of("{{ messages[1].content | trim }}"),
              AllOf(HasSubstr(file + ": the chat template omits text of message 1 (system)"),
                    HasSubstr("message 4 (user)"), Not(HasSubstr("message 2")), Not(HasSubstr("message 3"))));
}

TEST(ChatTemplate, OfAModelWithoutOneIsAnError) {
  const test::TemporaryDirectory directory;
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("has no chat template")));
  std::filesystem::create_symlink("nowhere", directory / "chat_template.jinja");
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("chat_template.jinja: is a symbolic link to nowhere")));
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
