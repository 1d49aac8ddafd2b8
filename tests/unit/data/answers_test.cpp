// The answers of conversations: in their text, and in their tokens.
#include "adept/data/answers.h"

#include <gmock/gmock.h>

#include <deque>
#include <fstream>

#include "adept/data/conversations.h"
#include "adept/data/tokenize.h"
#include "adept/data/untrained_tokens.h"
#include "data_test_util.h"
#include "tests/support/temporary_directory.h"

namespace adept::data {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr char kChatMl[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}";

ChatTemplate template_of(const test::TemporaryDirectory& directory, const std::string& source) {
  std::ofstream(directory / "chat_template.jinja") << source;
  return ChatTemplate::from_model_dir(directory.path());
}

// [[role, content], ...] of a text such as "user: Hi|assistant: Hello".
std::string messages_of(std::string_view text) {
  Json messages = Json::array();
  while (!text.empty()) {
    const std::string_view message = text.substr(0, text.find('|'));
    text.remove_prefix(std::min(text.size(), message.size() + 1));
    const auto colon = message.find(": ");
    messages.push_back({{"role", message.substr(0, colon)}, {"content", message.substr(colon + 2)}});
  }
  return messages.dump();
}

// The rendered conversations, each answer in brackets; of a bad one its reason, and what was found.
std::vector<std::string> answers_of(const std::string& source, const std::vector<std::string>& conversations) {
  const test::TemporaryDirectory directory;
  const ChatTemplate chat = template_of(directory, source);
  ConversationRenderer renderer(chat, TrainOn::kAssistant);
  for (const std::string& conversation : conversations) renderer.add(messages_of(conversation), "here");
  std::deque<ConversationText> rendered;
  renderer.render(rendered);
  std::vector<std::string> texts;
  for (const ConversationText& each : rendered) {
    std::string text = each.text;
    for (auto span = each.answers.rbegin(); span != each.answers.rend(); ++span)
      text.insert(span->end, "]").insert(span->begin, "[");
    texts.push_back(each.fault.reason.empty() ? text : each.fault.reason + ": " + each.fault.found);
  }
  return texts;
}

std::string answers_of(const std::string& source, const std::string& conversation) {
  return answers_of(source, std::vector{conversation}).front();
}

TEST(Answers, StartAfterThePromptAndEndWithTheirTurn) {
  EXPECT_THAT(answers_of(kChatMl, {"user: Hi|assistant: Hello", "system: S|user: Hi|assistant: a|user: b|assistant: c",
                                   "user: Hi|assistant: a|assistant: b", "user: Hi|assistant: x|user: bye",
                                   "assistant: Welcome|user: Hi|assistant: Welcome", "user: Hi|assistant: "}),
              ElementsAre("<user>Hi<end>\n<assistant>[Hello<end>\n]",
                          "<system>S<end>\n<user>Hi<end>\n<assistant>[a<end>\n]<user>b<end>\n<assistant>[c<end>\n]",
                          "<user>Hi<end>\n<assistant>[a<end>\n]<assistant>[b<end>\n]",
                          "<user>Hi<end>\n<assistant>[x<end>\n]<user>bye<end>\n",
                          "<assistant>[Welcome<end>\n]<user>Hi<end>\n<assistant>[Welcome<end>\n]",
                          "<user>Hi<end>\n<assistant>[<end>\n]"));
}

// As Qwen3 does: thoughts of earlier answers are removed, and the last one has empty thoughts.
TEST(Answers, AreFoundWhereOnlyTheLastOneHasThoughts) {
  const std::string source =
      "{% for m in messages %}<{{ m.role }}>{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
      "{% if m.role == 'assistant' and loop.last %}<think>{{ m.content.split('</think>')[0] if '</think>' in m.content "
      "else '' }}</think>{% endif %}{{ said }}<end>{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: a|user: b|assistant: c"),
            "<user>Hi<end><assistant>[a<end>]<user>b<end><assistant>[<think></think>c<end>]");
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: hm</think>\na|user: b|assistant: so</think>\nc"),
            "<user>Hi<end><assistant>[a<end>]<user>b<end><assistant>[<think>so</think>c<end>]");
}

// As DeepSeek does: a prompt that begins the thoughts, which the text of an answer does not have.
TEST(Answers, StartWhereThePromptBeginsAnother) {
  const std::string source =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
      "{% if add_generation_prompt %}<assistant><think>{% endif %}";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: Hello"), "<user>Hi<end><assistant>[Hello<end>]");
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: <b>x</b>|user: y|assistant: <t"),
            "<user>Hi<end><assistant>[<b>x</b><end>]<user>y<end><assistant>[<t<end>]")
      << "which begin as the prompt goes on";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: <think>x"), "<user>Hi<end><assistant><think>[x<end>]")
      << "the prompt gives it";
  EXPECT_EQ(answers_of(source, "assistant: Welcome|user: Hi"), "<assistant>[Welcome<end>]<user>Hi<end>");
}

TEST(Answers, EndWithWhatIsTheSameIfAnotherTurnFollows) {
  const std::string source =  // as gpt-oss does
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '<done>' if loop.last and m.role == 'assistant' else "
      "'<end>' }}{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: a|user: b|assistant: c"),
            "<user>Hi<end><assistant>[a<]end><user>b<end><assistant>[c<done>]");
}

TEST(Answers, AreNotFoundWhereTheMessageBeforeThemEndsInAnotherWay) {
  const std::string source =
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '<done>' if loop.last else '<end>' }}{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}";
  EXPECT_THAT(answers_of(source, "user: Hi|assistant: a"), HasSubstr("answers not found"));
}

TEST(Answers, OfAFirstMessageStartWithWhatItSaysWhereNoMessagesHaveNoPrompt) {
  const std::string turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}";
  for (const char* of_none : {"{{ raise_exception('no messages') }}", "", "<system>default<end><assistant>"})
    EXPECT_EQ(answers_of("{% if messages | length == 0 %}" + std::string(of_none) + "{% else %}" + turns +
                             "{% if add_generation_prompt %}<assistant>{% endif %}{% endif %}",
                         "assistant: Welcome|user: Hi|assistant: Welcome|user: bye"),
              "<assistant>[Welcome<end>]<user>Hi<end><assistant>[Welcome<end>]<user>bye<end>")
        << of_none;
}

TEST(Answers, NeverSplitACharacter) {
  const std::string source =  // é and ê differ in their second byte
      "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
      "{% if add_generation_prompt %}<assistant>ê{% endif %}";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: été"), "<user>Hi<end><assistant>[été<end>]");
}

TEST(Answers, AreNotFoundWhereLaterMessagesChangeEarlierText) {
  const std::string source =  // as Mistral does: the system message is in the last message of the user
      "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
      "{% for m in messages if m.role != 'system' %}"
      "{{ '[' ~ (system if loop.index0 >= loop.length - 2 else '') ~ m.content ~ ']' if m.role == 'user' else "
      "m.content }}"
      "{% endfor %}";
  EXPECT_THAT(answers_of(source, "system: S|user: Hi|assistant: a|user: b|assistant: c"),
              AllOf(HasSubstr("answers not found: that the chat template renders the messages up to 3 (assistant)")));
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: a|user: b|assistant: c"), "[Hi][a][b][c]");
}

TEST(Answers, OfMessagesThatAreRefusedAloneAreNotFound) {
  const std::string source =
      std::string("{% if messages | length == 1 %}{{ raise_exception('too few') }}{% endif %}") + kChatMl;
  EXPECT_THAT(
      answers_of(source, "user: Hi|assistant: a|user: b|assistant: c"),
      AllOf(HasSubstr("answers not found: for the messages up to 2 (assistant) alone: "), HasSubstr("too few")));
}

TEST(Answers, AreRequired) {
  EXPECT_THAT(answers_of(kChatMl, {"user: Hi", "user: Hi|assistant: x", "system: a|user: b"}),
              ElementsAre("no answer: 1 messages, none of the role assistant", "<user>Hi<end>\n<assistant>[x<end>\n]",
                          "no answer: 2 messages, none of the role assistant"));
}

TEST(Answers, OfConversationsWhoseBeginningsAreTooLongTogetherAreAFault) {
  std::string conversation = "user: " + std::string(std::size_t{4} << 20, 'x');
  for (int i = 0; i < 33; ++i) conversation += "|assistant: a|user: b";
  EXPECT_THAT(answers_of(kChatMl, conversation),
              AllOf(HasSubstr("too many answers: 33 answers, for which "), HasSubstr("of messages are rendered")));
}

TEST(Answers, OfManyConversationsAreThoseOfEachAlone) {
  std::vector<std::string> conversations, expected;
  for (int i = 0; i < 40; ++i) {
    std::string conversation = "user: " + std::string(static_cast<std::size_t>(i * i * 40), 'u');
    for (int k = 0; k < i % 7; ++k) conversation += fmt::format("|assistant: a{}|user: {}", k, i);
    conversations.push_back(conversation);
    expected.push_back(answers_of(kChatMl, conversation));
  }
  EXPECT_EQ(answers_of(kChatMl, conversations), expected);
}

TEST(Answers, AreThoseThatATemplateMarks) {
  const std::string source =
      "{%- for m in messages %}\n<{{ m.role }}>\n{%- if m.role == 'assistant' %}\n  {%- generation %}{{ m.content }}!\n"
      "  {%- endgeneration -%}\n<end>\n{%- else %}{{ m.content }}{% endif %}\n{%- endfor %}";
  EXPECT_EQ(answers_of(source, "user: Hi|assistant: a|user: b|assistant: c"),
            "<user>Hi<assistant>[a!]<end><user>b<assistant>[c!]<end>");
  EXPECT_THAT(answers_of("{% generation %}{% endgeneration %}{{ messages[0].content }}", "user: Hi|assistant: a"),
              HasSubstr("no answer: messages in which the chat template marks nothing as generated"));
  const test::TemporaryDirectory directory;
  const Json messages = Json::parse(messages_of("user: Hi|assistant: a"));
  EXPECT_EQ(template_of(directory, source).render(messages), "<user>Hi<assistant>a!<end>") << "without marks";
}

// Pairs of equal letters are one token (256 + the letter), others a token per byte.
TextEncoder pair_encoder() {
  const auto ids_of = [](std::string_view text) {
    std::vector<std::int32_t> ids;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool is_pair = i + 1 < text.size() && text[i] == text[i + 1];
      ids.push_back(static_cast<unsigned char>(text[i]) + (is_pair ? 256 : 0));
      if (is_pair) ++i;
    }
    return ids;
  };
  return {.encode = handing_over(ids_of), .vocab_size = 512, .fingerprint = "pairs"};
}

Untrained untrained_of(const std::string& text, std::vector<TextSpan> answers) {
  const TextEncoder encoder = pair_encoder();
  std::vector<std::int32_t> all;
  encoder.encode(text, [&](std::span<const std::int32_t> ids) { all.insert(all.end(), ids.begin(), ids.end()); });
  return untrained_tokens(encoder, {.text = text, .answers = std::move(answers)}, all);
}

TEST(UntrainedTokens, AreThoseOutsideOfTheAnswers) {
  EXPECT_EQ(untrained_of("abcdef", {}), Untrained());
  EXPECT_EQ(untrained_of("abcdef", {{0, 6}}), Untrained());
  EXPECT_EQ(untrained_of("abcdef", {{2, 4}}), (Untrained{.spans = {{0, 2}, {4, 6}}, .bytes = 4}));
  EXPECT_EQ(untrained_of("abcdef", {{0, 1}, {3, 6}}), (Untrained{.spans = {{1, 3}}, .bytes = 2}));
  EXPECT_EQ(untrained_of("abcdef", {{1, 3}, {3, 5}}), (Untrained{.spans = {{0, 1}, {5, 6}}, .bytes = 2}));
  EXPECT_EQ(untrained_of("aabbccdd", {{2, 6}}), (Untrained{.spans = {{0, 1}, {3, 4}}, .bytes = 4}));
}

TEST(UntrainedTokens, ATokenAcrossAStartIsOfTheAnswerAndAcrossAnEndIsNot) {
  EXPECT_EQ(untrained_of("xaabby", {{2, 4}}), (Untrained{.spans = {{0, 1}, {2, 4}}, .bytes = 4}));
  EXPECT_EQ(untrained_of("xaay", {{1, 2}}), (Untrained{.spans = {{0, 3}}, .bytes = 3})) << "no token of its own";
}

TEST(UntrainedTokens, OfASourceAreInItsDatasetAlsoOfLongConversations) {
  const TemporaryFolder folder;
  const test::TemporaryDirectory directory;
  const ChatTemplate chat = template_of(directory, kChatMl);
  TextEncoder encoder = byte_encoder();
  encoder.chat = std::make_shared<const ChatTemplate>(chat);
  const std::string word(std::size_t{5} << 20, 'w');  // longer than what is streamed into the result
  const std::string lines = "{\"m\": " + messages_of("user: Hi|assistant: Hello") +
                            "}\n{\"m\": " + messages_of("user: Hi") +
                            "}\n{\"m\": " + messages_of("user: Hi|assistant: " + word + "|user: x") + "}\n";
  TextSource source{.name = "s",
                    .paths = {folder.write("a.jsonl", lines)},
                    .messages_field = "m",
                    .train_on = TrainOn::kAssistant,
                    .on_bad_record = BadRecord::kSkip};
  const TokenDataset dataset = tokenize(source, encoder, {.num_threads = 2});
  ASSERT_EQ(dataset.num_documents(), 2);
  EXPECT_THAT(dataset.counts().skipped, ElementsAre(Pair("no answer", 1)));
  EXPECT_TRUE(dataset.has_untrained());
  EXPECT_EQ(dataset.untrained(0), (Untrained{.spans = {{0, 25}}, .bytes = 25}));
  const auto end = static_cast<std::int32_t>(25 + word.size() + 6);
  EXPECT_EQ(dataset.untrained(1), (Untrained{.spans = {{0, 25}, {end, end + 13}}, .bytes = 38}));
  const TokenDataset stored = tokenize_to_store(folder / "store", source, encoder, {.num_threads = 1});
  expect_equal(stored.renamed("s"), [&] {
    DatasetInfo info = dataset.info();
    info.content_hash = stored.info().content_hash;
    MemorySink sink;
    for (std::int64_t i = 0; i < 2; ++i)
      sink.add(test::document_ids(dataset, i), dataset.document_bytes(i), dataset.untrained(i));
    return sink.finish(info);
  }());
  verify_store(folder / "store");
  source.paths = {folder.write("short.jsonl", lines.substr(0, lines.rfind("{\"m\"")))};
  source.train_on = TrainOn::kAll;
  const TokenDataset all = tokenize(source, encoder, {.num_threads = 1});
  EXPECT_FALSE(all.has_untrained());
  EXPECT_EQ(all.num_documents(), 2);
  source.train_on = TrainOn::kAssistant;
  source.on_bad_record = BadRecord::kFail;
  EXPECT_THAT(message_of<DataError>([&] { tokenize(source, encoder); }),
              AllOf(HasSubstr("short.jsonl:2: no answer: found 1 messages"), HasSubstr("on_bad_record: skip")));
}

}  // namespace
}  // namespace adept::data
