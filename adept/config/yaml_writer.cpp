#include "adept/config/yaml_writer.h"

#include <yaml-cpp/yaml.h>

#include "adept/config/document.h"

namespace adept::config {
namespace {

void emit(YAML::Emitter& out, const Json& value) {
  if (value.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [key, member] : value.items()) {
      out << YAML::Key << key << YAML::Value;
      emit(out, member);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    const bool plain = value.empty() || !value.front().is_object();
    out << (plain ? YAML::Flow : YAML::Block) << YAML::BeginSeq;
    for (const Json& item : value) emit(out, item);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (scalar_type(text) != ScalarType::kString) out << YAML::DoubleQuoted;
    out << text;
  } else if (value.is_null()) {
    out << YAML::LowerNull << YAML::Null;
  } else {
    out << value.dump();  // numbers in their shortest exact form, true, false
  }
}

/// Visitor that collects the fields that decide one of `what` and that `method` uses; sections without any are omitted.
class DecidingCollector {
 public:
  DecidingCollector(unsigned what, train::Method method, unsigned of_section = 0)
      : what_(what), method_(method), of_section_(of_section) {}
  Json object = Json::object();

  template <typename T>
  void operator()(T& member, std::string_view name, std::string_view, const FieldOptions& options = {}) {
    if (options.methods != 0 && (options.methods & bit_of(method_)) == 0) return;
    const unsigned decided = options.decides != 0 ? options.decides : of_section_;
    if constexpr (kIsSection<T>) {
      DecidingCollector inner(what_, method_, decided);
      describe(inner, member);
      if (!inner.object.empty()) object[std::string(name)] = inner.object;
    } else if ((decided & what_) != 0) {
      object[std::string(name)] = encode(member);
    }
  }

 private:
  unsigned what_;
  train::Method method_;
  unsigned of_section_;
};

std::string emit_document(const Json& value) {
  YAML::Emitter out;
  emit(out, value);
  return out.c_str();
}

}  // namespace

std::string yaml_scalar(const Json& value) { return emit_document(value); }

std::string to_yaml(const RunConfig& config) { return emit_document(encode(config)) + "\n"; }

Json to_json(const RunConfig& config) { return encode(config); }

Json deciding(const RunConfig& config, unsigned what) {
  DecidingCollector collector(what, config.method);
  RunConfig copy = config;
  describe(collector, copy);
  return collector.object;
}

}  // namespace adept::config
