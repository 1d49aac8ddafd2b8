#include "adept/data/tokenizer/post_processor.h"

#include <fmt/format.h>

#include "adept/data/tokenizer/bpe.h"
#include "adept/io/text_quote.h"

namespace adept::data::tok {
namespace {

std::int32_t read_id(const JsonField& field) { return static_cast<std::int32_t>(field.as_integer(0, kMaxTokenId)); }

// Special tokens before and after the text.
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
        if (id.as_string() != "A") id.refuse(id.as_string(), "A in the template for a single text");
        ++num_texts;
      } else {
        const JsonField id = piece.at("SpecialToken").at("id");
        const auto token = tokens.find(id.as_string());
        if (!token) id.fail(fmt::format("is {}, which special_tokens does not have.", io::quote(id.as_string())));
        for (const JsonField& one : token->at("ids").elements())
          (num_texts == 0 ? front_ : back_).push_back(read_id(one));
      }
    }
    if (num_texts != 1)
      field.at("single").fail(
          fmt::format("contains the text {} times; this build supports templates that contain it once.", num_texts));
  }

  Template(std::int32_t front, std::int32_t back) : front_{front}, back_{back} {}

  void surround(std::vector<std::int32_t>& front, std::vector<std::int32_t>& back) const override {
    front.insert(front.begin(), front_.begin(), front_.end());
    back.insert(back.end(), back_.begin(), back_.end());
  }

 private:
  std::vector<std::int32_t> front_, back_;
};

class Nothing final : public PostProcessor {
 public:
  void surround(std::vector<std::int32_t>&, std::vector<std::int32_t>&) const override {}
};

class PostProcessorSequence final : public PostProcessor {
 public:
  explicit PostProcessorSequence(const JsonField& field) {
    field.check_keys({"type", "processors"});
    for (const JsonField& element : field.at("processors").elements()) parts_.push_back(make_post_processor(element));
  }
  void surround(std::vector<std::int32_t>& front, std::vector<std::int32_t>& back) const override {
    for (const auto& part : parts_) part->surround(front, back);
  }

 private:
  std::vector<std::unique_ptr<PostProcessor>> parts_;
};

// ["</s>", 2]
std::int32_t read_pair(const JsonField& field) {
  if (field.size() != 2) field.fail("expected [token, id].");
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
