#include "adept/data/tokenizer/post_processor.h"

#include <fmt/format.h>

#include <algorithm>

#include "adept/data/tokenizer/bpe.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

std::int32_t read_id(const JsonField& field) { return static_cast<std::int32_t>(field.as_integer(0, kMaxTokenId)); }

// The pieces of a template: the text itself, or special tokens.
class Template final : public PostProcessor {
 public:
  explicit Template(const JsonField& field) {
    field.check_keys({"type", "single", "pair", "special_tokens"});
    const JsonField tokens = field.at("special_tokens");
    std::size_t num_texts = 0;
    for (const JsonField& piece : field.at("single").elements()) {
      piece.check_keys({"Sequence", "SpecialToken"});
      if (const auto sequence = piece.find("Sequence")) {
        const JsonField id = sequence->at("id");
        if (id.as_string() != "A") id.refuse(id.as_string(), "A in the template of a single text");
        parts_.push_back({true, {}});
        ++num_texts;
      } else {
        const JsonField id = piece.at("SpecialToken").at("id");
        const auto token = tokens.find(id.as_string());
        if (!token) id.fail(fmt::format("is {}, which special_tokens does not have.", io::quote(id.as_string())));
        parts_.push_back({false, {}});
        for (const JsonField& one : token->at("ids").elements()) parts_.back().ids.push_back(read_id(one));
      }
    }
    if (num_texts != 1)
      field.at("single").fail(
          fmt::format("has the text {} times; this build knows templates with it once.", num_texts));
  }

  // `front` and `back` go around the text.
  Template(std::int32_t front, std::int32_t back) : parts_{{false, {front}}, {true, {}}, {false, {back}}} {}

  void process(std::vector<std::int32_t>& ids, bool add_special_tokens) const override {
    if (!add_special_tokens) return;
    std::vector<std::int32_t> out;
    for (const Part& part : parts_) {
      const auto& added = part.is_text ? ids : part.ids;
      out.insert(out.end(), added.begin(), added.end());
    }
    ids = std::move(out);
  }

  void collect_ids(std::vector<std::int32_t>& ids) const override {
    for (const Part& part : parts_) ids.insert(ids.end(), part.ids.begin(), part.ids.end());
  }

 private:
  struct Part {
    bool is_text;
    std::vector<std::int32_t> ids;
  };
  std::vector<Part> parts_;
};

class Nothing final : public PostProcessor {
 public:
  void process(std::vector<std::int32_t>&, bool) const override {}
  void collect_ids(std::vector<std::int32_t>&) const override {}
};

class PostProcessorSequence final : public PostProcessor {
 public:
  explicit PostProcessorSequence(const JsonField& field) {
    field.check_keys({"type", "processors"});
    for (const JsonField& element : field.at("processors").elements()) parts_.push_back(make_post_processor(element));
  }
  void process(std::vector<std::int32_t>& ids, bool add_special_tokens) const override {
    for (const auto& part : parts_) part->process(ids, add_special_tokens);
  }
  void collect_ids(std::vector<std::int32_t>& ids) const override {
    for (const auto& part : parts_) part->collect_ids(ids);
  }

 private:
  std::vector<std::unique_ptr<PostProcessor>> parts_;
};

// ["</s>", 2]
std::int32_t read_pair(const JsonField& field) {
  if (field.size() != 2) field.fail("must be [token, id].");
  return read_id(field.at(std::size_t{1}));
}

}  // namespace

std::unique_ptr<PostProcessor> make_post_processor(const JsonField& field) {
  const JsonField type = field.at("type");
  const std::string& name = type.as_string();
  if (name == "TemplateProcessing") return std::make_unique<Template>(field);
  if (name == "Sequence") return std::make_unique<PostProcessorSequence>(field);
  if (name == "ByteLevel") {
    field.check_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return std::make_unique<Nothing>();
  }
  if (name == "BertProcessing" || name == "RobertaProcessing") {
    field.check_keys({"type", "sep", "cls", "trim_offsets", "add_prefix_space"});
    return std::make_unique<Template>(read_pair(field.at("cls")), read_pair(field.at("sep")));
  }
  type.refuse(name, "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing");
}

}  // namespace adept::data::tok
