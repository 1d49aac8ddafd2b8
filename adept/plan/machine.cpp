#include "adept/plan/machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "adept/core/cpu.h"
#include "adept/core/error.h"
#include "adept/core/json.h"

namespace adept::plan {
namespace {

constexpr double kTera = 1e12, kGiga = 1e9;

Machine this_machine() {
  const auto bytes = static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGE_SIZE);
  return {.name = "cpu",
          .meaning = fmt::format("this machine: {}, {} cores", cpu_model_name(), available_cores()),
          .memory = bytes,
          .devices_per_host = 1,
          .is_this_one = true};
}

/// A number of a machine's JSON file.
struct Field {
  const char* name;
  double least, most;
  const char* unit;
  void (*set)(Machine& machine, double value);
  bool is_whole = false;
};
// Far beyond what exists, and near enough that no time or cost overflows.
constexpr double kLeastRate = 1e3, kMostRate = 1e18;
constexpr Field kFields[] = {
    {"memory", 1, 1e15, "bytes", [](Machine& m, double value) { m.memory = static_cast<std::int64_t>(value); }},
    {"matmul_flops", kLeastRate, kMostRate, "per second", [](Machine& m, double value) { m.matmul_flops = value; }},
    {"matmul_flops_fp32", kLeastRate, kMostRate, "per second",
     [](Machine& m, double value) { m.matmul_flops_fp32 = value; }},
    {"memory_bandwidth", kLeastRate, kMostRate, "bytes per second",
     [](Machine& m, double value) { m.memory_bandwidth = value; }},
    {"link_bandwidth", kLeastRate, kMostRate, "bytes per second",
     [](Machine& m, double value) { m.link_bandwidth = value; }},
    {"network_bandwidth", kLeastRate, kMostRate, "bytes per second",
     [](Machine& m, double value) { m.network_bandwidth = value; }},
    {"devices_per_host", 1, 1024, "devices",
     [](Machine& m, double value) { m.devices_per_host = static_cast<int>(value); },
     /*is_whole=*/true},
    {"efficiency", 1e-4, 1, "of matmul_flops", [](Machine& m, double value) { m.efficiency = value; }},
    {"price_per_hour", 0, 1e9, "per device", [](Machine& m, double value) { m.price_per_hour = value; }}};
constexpr const char* kRequired[] = {"memory", "matmul_flops", "memory_bandwidth"};

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  for (const Machine& machine : known_machines()) names.push_back(machine.name);
  return names;
}

std::string field_names() {
  std::string names = "base";
  for (const Field& field : kFields) names += fmt::format(", {}", field.name);
  return names;
}

Json read_object(const std::string& path) {
  Json json;
  try {
    json = read_json(path);
  } catch (const DataError& error) {
    throw ConfigError("--gpu: {} Expected a JSON object with the fields of a machine: {}.", error.what(),
                      field_names());
  }
  if (!json.is_object())
    throw ConfigError("{}: found no JSON object; expected the fields of a machine: {}.", path, field_names());
  return json;
}

/// Sets the field `key`. Returns what is wrong with it, or nothing.
std::string set_field(Machine& machine, const std::string& key, const Json& value) {
  const auto field = std::ranges::find_if(kFields, [&](const Field& f) { return key == f.name; });
  if (field == std::end(kFields)) return fmt::format("unknown; expected {}", field_names());
  const double number = value.is_number() ? value.get<double>() : -1;
  const bool is_good =
      number >= field->least && number <= field->most && (!field->is_whole || number == std::floor(number));
  if (!is_good)
    return fmt::format("found {}; expected a {} from {:g} to {:g} ({})", brief(value),
                       field->is_whole ? "whole number" : "number", field->least, field->most, field->unit);
  field->set(machine, number);
  return "";
}

Machine read_machine(const std::string& path) {
  const Json json = read_object(path);
  std::vector<std::string> problems;
  const auto expect = [&](bool good, const std::string& key, const std::string& text) {
    if (!good) problems.push_back(fmt::format("{}: {}: {}", path, key, text));
  };
  Machine machine;
  machine.meaning = path;
  if (json.contains("base")) {
    const auto base = std::ranges::find(known_machines(), json["base"], [](const Machine& m) { return Json(m.name); });
    expect(base != known_machines().end(), "base",
           fmt::format("found {}; expected {}", brief(json["base"]), fmt::join(machine_names(), ", ")));
    if (base != known_machines().end()) {
      machine = *base;
      machine.meaning = fmt::format("{} of {}", path, base->name);
    }
  }
  machine.name = std::filesystem::path(path).stem().string();
  for (const auto& [key, value] : json.items()) {
    if (key == "base") continue;
    const std::string problem = set_field(machine, key, value);
    expect(problem.empty(), key, problem);
  }
  for (const char* name : kRequired)
    expect(json.contains("base") || json.contains(name), name,
           "found nothing; expected a number, or a base that has it");
  if (!problems.empty()) throw ConfigError(fmt::format("{}", fmt::join(problems, "\n")));
  if (machine.matmul_flops_fp32 == 0) machine.matmul_flops_fp32 = machine.matmul_flops;
  return machine;
}

}  // namespace

const std::vector<Machine>& known_machines() {
  // NVIDIA's data sheets of the SXM modules: dense bf16 (half of the figure with sparsity), fp32 without tensor cores,
  // memory, NVLink per direction (half of the total). 400 Gbit/s of network for each GPU, as in DGX and HGX hosts.
  static const std::vector<Machine> machines = {
      {.name = "a100",
       .meaning = "NVIDIA A100 SXM 80 GB",
       .memory = 80'000'000'000,
       .matmul_flops = 312 * kTera,
       .matmul_flops_fp32 = 19.5 * kTera,
       .memory_bandwidth = 2039 * kGiga,
       .link_bandwidth = 300 * kGiga,
       .network_bandwidth = 25 * kGiga},
      {.name = "h100",
       .meaning = "NVIDIA H100 SXM 80 GB",
       .memory = 80'000'000'000,
       .matmul_flops = 989 * kTera,
       .matmul_flops_fp32 = 67 * kTera,
       .memory_bandwidth = 3350 * kGiga,
       .link_bandwidth = 450 * kGiga,
       .network_bandwidth = 50 * kGiga},
      {.name = "h200",
       .meaning = "NVIDIA H200 SXM 141 GB",
       .memory = 141'000'000'000,
       .matmul_flops = 989 * kTera,
       .matmul_flops_fp32 = 67 * kTera,
       .memory_bandwidth = 4800 * kGiga,
       .link_bandwidth = 450 * kGiga,
       .network_bandwidth = 50 * kGiga},
      {.name = "b200",
       .meaning = "NVIDIA B200 SXM 180 GB",
       .memory = 180'000'000'000,
       .matmul_flops = 2250 * kTera,
       .matmul_flops_fp32 = 75 * kTera,
       .memory_bandwidth = 7700 * kGiga,
       .link_bandwidth = 900 * kGiga,
       .network_bandwidth = 50 * kGiga},
  };
  return machines;
}

Machine find_machine(const std::string& name_or_file) {
  if (name_or_file == "cpu") return this_machine();
  for (const Machine& machine : known_machines())
    if (machine.name == name_or_file) return machine;
  if (std::filesystem::exists(name_or_file)) return read_machine(name_or_file);
  throw ConfigError("--gpu: \"{}\": there is no such file; expected cpu, {} or the path of a JSON file.", name_or_file,
                    fmt::join(machine_names(), ", "));
}

}  // namespace adept::plan
