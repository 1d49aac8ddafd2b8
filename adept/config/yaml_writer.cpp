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

std::string emit_document(const Json& value) {
  YAML::Emitter out;
  emit(out, value);
  return out.c_str();
}

}  // namespace

std::string yaml_scalar(const Json& value) { return emit_document(value); }

std::string to_yaml(const RunConfig& config) { return emit_document(encode(config)) + "\n"; }

Json to_json(const RunConfig& config) { return encode(config); }
Json to_json(const Source& config) { return encode(config); }
Json to_json(const TrainSource& config) { return encode(config); }
Json to_json(const GeneralSource& config) { return encode(config); }
Json to_json(const EvalSource& config) { return encode(config); }
Json to_json(const DataConfig& config) { return encode(config); }
Json to_json(const ProbeConfig& config) { return encode(config); }
Json to_json(const ExpandConfig& config) { return encode(config); }
Json to_json(const TrainConfig& config) { return encode(config); }
Json to_json(const UnitFactor& config) { return encode(config); }
Json to_json(const UnitLrConfig& config) { return encode(config); }
Json to_json(const LoraConfig& config) { return encode(config); }
Json to_json(const TopKLayersConfig& config) { return encode(config); }
Json to_json(const EvalConfig& config) { return encode(config); }

}  // namespace adept::config
