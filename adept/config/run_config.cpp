#include "adept/config/run_config.h"

#include "adept/config/reader.h"
#include "adept/core/error.h"

namespace adept::config {

ComputeDType Compute::decided_dtype() const {
  ADEPT_CHECK(dtype != DTypeChoice::kAuto, "the compute dtype was not decided");
  return dtype == DTypeChoice::kBf16 ? ComputeDType::kBf16 : ComputeDType::kFp32;
}

RunConfig parse_run_config(const std::string& text, const std::string& file, const std::vector<std::string>& overrides,
                           Purpose purpose) {
  ReadResult result;
  Value document = parse_document(text, file, result.problems);
  for (const std::string& override : overrides) apply_override(document, override, result.problems);
  unset_excluded(document, overrides);

  RunConfig config;
  const Location place{.source = file};
  SectionReader reader(&document, place, "", result);
  describe(reader, config);
  reader.finish();
  check_and_resolve(config, purpose, place, result);
  throw_if_any(std::move(result.problems));
  return config;
}

RunConfig load_run_config(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                          Purpose purpose) {
  return parse_run_config(read_config_file(path.string()), path.string(), overrides, purpose);
}

}  // namespace adept::config
