#include "adept/data/chat_template.h"

#include <gmock/gmock.h>

#include <fstream>

#include "adept/core/error.h"
#include "tests/support/captured_log.h"
#include "tests/support/temporary_directory.h"

namespace adept::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
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

// The problem of each conversation, or its text.
std::vector<std::string> rendered_by(const std::string& source, const std::vector<const char*>& conversations) {
  const test::TemporaryDirectory directory;
  std::vector<Json> messages;
  for (const char* conversation : conversations) messages.push_back(Json::parse(conversation));
  std::vector<std::string> results;
  for (const ChatTemplate::Rendered& each : make_template(directory, source).render_conversations(messages))
    results.push_back(each.problem.empty() ? each.text : each.problem);
  return results;
}

TEST(ChatTemplate, LosesNoPartsOfMessages) {
  const std::vector<const char*> conversations = {
      R"([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])",
      R"([{"role": "assistant", "content": [{"type": "text", "text": "<think>x</think>a"}, {"type": "text", "text": "b"}]}])",
      R"([{"role": "user", "content": "a list: [{'type': 'text'}]"}])"};
  const auto lost = [](int number, const char* role) {
    return HasSubstr("the chat template does not write the parts of its content as text (message " +
                     std::to_string(number) + ", " + role + ")");
  };
  EXPECT_THAT(rendered_by("{% for m in messages %}{{ m.content }}{% endfor %}", conversations),
              ElementsAre(lost(1, "user"), lost(1, "assistant"), "a list: [{'type': 'text'}]"));
  EXPECT_THAT(rendered_by("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", conversations),
              ElementsAre(lost(1, "user"), lost(1, "assistant"), testing::_));
  EXPECT_THAT(rendered_by("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% endif %}{% endfor %}",
                          conversations),
              ElementsAre(lost(1, "user"), lost(1, "assistant"), testing::_));
  EXPECT_THAT(
      rendered_by("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                  "{% for p in m.content %}{{ (p.text.split('</think>') | last) }};{% endfor %}{% endif %}{% endfor %}",
                  conversations),
      ElementsAre("hi;", "a;b;", testing::_));
}

TEST(ChatTemplate, LosesNoCallsOfFunctions) {
  const std::vector<const char*> conversations = {
      R"([{"role": "user", "content": "x"},
          {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "find_it", "arguments": "{}"}}]},
          {"role": "tool", "content": {"rows": []}}])",
      R"([{"role": "assistant", "content": "wait", "tool_calls": [{"name": "find_it"}]}])"};
  const auto lost = HasSubstr("the chat template does not write its call of the function \"find_it\" (message ");
  EXPECT_THAT(rendered_by("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}", conversations),
              ElementsAre(lost, lost));
  EXPECT_THAT(rendered_by("{% for m in messages %}{% for c in m.tool_calls %}{{ (c.function or c).name }}{% endfor %}"
                          "{% endfor %}",
                          conversations),
              ElementsAre("find_it", "find_it"));
}

TEST(ChatTemplate, OfAModelWithoutOneIsAnError) {
  const test::TemporaryDirectory directory;
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("has no chat template")));
  std::filesystem::create_symlink("nowhere", directory / "chat_template.jinja");
  EXPECT_THAT([&] { ChatTemplate::from_model_dir(directory.path()); },
              ThrowsMessage<DataError>(HasSubstr("chat_template.jinja: is a symbolic link to nowhere")));
}

TEST(ChatTemplate, TakesMessagesWithARoleAndContentOnly) {
  EXPECT_NO_THROW(check_messages(kMessages, "chat.json"));
  for (const char* right :
       {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])",
        R"([{"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {}}]}])",
        R"([{"role": "user", "content": [{"type": "text", "text": "a", "image": null}], "tool_calls": null}])",
        R"([{"role": "tool", "content": {"rows": [1]}}])", R"([{"role": "tool", "content": [1, 2]}])"})
    EXPECT_NO_THROW(check_messages(Json::parse(right), "chat.json")) << right;
  for (const char* wrong :
       {"[]", "{}", "\"a\"", R"([{"content": "a"}])", R"([{"role": 1}])", "[1]", R"([{"role": "user"}])",
        R"([{"role": "user", "content": null}])", R"([{"role": "assistant", "content": null, "tool_calls": []}])",
        R"([{"role": "assistant", "content": null, "tool_calls": [{"function": {}}]}])",
        R"([{"role": "assistant", "content": "a", "tool_calls": [1]}])", R"([{"role": "system", "content": 7}])",
        R"([{"role": "user", "content": {"text": "a"}}])", R"([{"role": "user", "content": []}])",
        R"([{"role": "user", "content": ["a"]}])", R"([{"role": "user", "content": [{"type": "image"}]}])",
        R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}])",
        R"([{"role": "tool", "content": null}])"})
    EXPECT_THAT([&] { check_messages(Json::parse(wrong), "chat.json"); },
                ThrowsMessage<ConfigError>(HasSubstr("chat.json: ")))
        << wrong;
}

}  // namespace
}  // namespace adept::data
