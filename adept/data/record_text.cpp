#include "adept/data/record_text.h"

#include <fmt/format.h>

#include "adept/core/error.h"
#include "adept/data/multiple_choice.h"
#include "adept/data/readers/formats.h"
#include "adept/io/text_quote.h"

namespace adept::data {

RecordText::RecordText(const TextSource& source) {
  using Form = WantedField::Form;
  if (source.text_template) {
    template_ = parse_text_template(*source.text_template);
    for (const std::string& field : template_->fields) wanted_.fields.push_back({field, Form::kScalar});
  } else if (source.messages_field) {
    wanted_.fields.push_back({*source.messages_field, Form::kJson});
  } else {
    wanted_.fields.push_back({source.text_field.value_or(kDefaultTextField), Form::kString});
    for (const std::string_view key : kMultipleChoiceKeys) wanted_.fallback.push_back({std::string(key), Form::kJson});
  }
}

bool RecordText::convert(Record& record, std::string& text, Fault& fault) const {
  if (record.has_missing() && !record.fallback.empty()) return convert_fallback(record, text, fault);
  if (!has_all(record, fault)) return false;
  if (!template_) {
    text.swap(record.fields.front().text);
    return true;
  }
  text.clear();
  for (const TextTemplate::Part& part : template_->parts) {
    text += part.text;
    if (part.field < record.fields.size()) text += record.fields[part.field].text;
    if (text.size() > kMaxRecordBytes) {
      fault = {"text too long", fmt::format("a text of more than {} bytes", kMaxRecordBytes), "shorter fields"};
      return false;
    }
  }
  return true;
}

bool RecordText::has_all(const Record& record, Fault& fault) const {
  for (std::size_t i = 0; i < record.fields.size(); ++i) {
    const Field& field = record.fields[i];
    const std::string name = io::quote(wanted_.fields[i].path);
    const char* expected = template_ ? "a string, number or boolean" : "a string";
    const std::string used = template_ ? name + ", which the template uses" : name;
    switch (field.state) {
      case Field::State::kValue:
        continue;
      case Field::State::kMissing:
        fault = {"missing field", record.keys,
                 template_ ? fmt::format("{} in {}", expected, used)
                           : fmt::format("the text in {}. Set the field that holds it with --text-field FIELD, or with "
                                         "text_field of the source",
                                         name)};
        break;
      case Field::State::kNull:
        fault = {"null field", "null", fmt::format("{} in {}", expected, used)};
        break;
      case Field::State::kOtherType:
        fault = wanted_.fields[i].form == WantedField::Form::kJson
                    ? Fault{"unreadable field", field.type, fmt::format("a list of messages in {}", name)}
                    : Fault{"field not a string", field.type, fmt::format("{} in {}", expected, used)};
        break;
    }
    return false;
  }
  return true;
}

bool RecordText::convert_fallback(const Record& record, std::string& text, Fault& fault) const {
  Json question = Json::object();
  std::size_t bytes = 0;
  for (const Field& field : record.fallback) bytes += field.text.size();
  for (std::size_t i = 0; i < record.fallback.size() && bytes <= kMaxJsonValueBytes; ++i) {
    const Field& field = record.fallback[i];
    if (field.state == Field::State::kNull) question[wanted_.fallback[i].path] = nullptr;
    if (field.state != Field::State::kValue) continue;
    try {
      question[wanted_.fallback[i].path] = parse_json(field.text, "a record");
    } catch (const DataError&) {  // a limit of such values
      question.clear();
      break;
    }
  }
  MultipleChoice choice = render_multiple_choice(question);
  if (choice.text.empty() && choice.problem.empty()) return has_all(record, fault);
  text = std::move(choice.text);
  if (!choice.problem.empty())
    fault = {"unreadable question", choice.problem, "choices as a list or by label, and an answer among them"};
  return choice.problem.empty();
}

std::vector<SourceProblem> option_problems(const TextSource& source) {
  std::vector<SourceProblem> problems;
  struct Use {
    const char* key;
    bool is_set;
  };
  const Use uses[] = {{"text_field", source.text_field.has_value()},
                      {"template", source.text_template.has_value()},
                      {"messages_field", source.messages_field.has_value()}};
  const char* first = nullptr;
  for (const Use& use : uses) {
    if (!use.is_set) continue;
    if (first != nullptr)
      problems.push_back({use.key, fmt::format("found together with {}; expected only one of them", first)});
    else
      first = use.key;
  }
  if (source.text_template) {
    try {
      parse_text_template(*source.text_template);
    } catch (const ConfigError& error) {
      problems.push_back({"template", error.what()});
    }
  }
  if (source.train_on == TrainOn::kAssistant && !source.messages_field)
    problems.push_back({"train_on",
                        "found assistant without messages_field; expected messages_field, because the answers are "
                        "messages of a conversation"});
  const Format* format = source.format ? format_by_name(*source.format) : nullptr;
  if (source.format && format == nullptr)
    problems.push_back({"format", fmt::format("found {}; expected one of the formats", io::quote(*source.format))});
  if (format != nullptr && format->has_fields && source.txt_record)
    problems.push_back({"txt_record", fmt::format("found together with format: {}; expected format: text, or none, "
                                                  "because the option is for text files",
                                                  format->name)});
  if (format != nullptr && !format->has_fields && first != nullptr)
    problems.push_back({first, fmt::format("found together with format: {}, whose records have no fields; expected "
                                           "another format, or none of the two",
                                           format->name)});
  return problems;
}

}  // namespace adept::data
