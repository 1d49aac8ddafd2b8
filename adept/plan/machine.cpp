#include "adept/plan/machine.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
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

// Numbers of a JSON object, by name.
struct Field {
  const char* name;
  double Machine::* number;
};
constexpr Field kNumbers[] = {
    {"matmul_flops", &Machine::matmul_flops},           {"matmul_flops_fp32", &Machine::matmul_flops_fp32},
    {"memory_bandwidth", &Machine::memory_bandwidth},   {"link_bandwidth", &Machine::link_bandwidth},
    {"network_bandwidth", &Machine::network_bandwidth}, {"efficiency", &Machine::efficiency},
    {"price_per_hour", &Machine::price_per_hour}};

Machine read_machine(const std::string& path) {
  const Json json = read_json(path);
  std::vector<std::string> problems;
  const auto expect = [&](bool good, const std::string& text) {
    if (!good) problems.push_back(fmt::format("{}: {}", path, text));
  };
  if (!json.is_object()) throw ConfigError("{}: found no JSON object; expected the fields of a machine.", path);
  Machine machine{.name = std::filesystem::path(path).stem().string(), .meaning = path};
  for (const auto& [key, value] : json.items()) {
    if (key == "base") {
      expect(value.is_string(), "base: expected the name of a known machine");
      if (!value.is_string()) continue;
      const auto name = value.get<std::string>();
      const auto base = std::ranges::find(known_machines(), name, &Machine::name);
      expect(base != known_machines().end(), fmt::format("base: found \"{}\"; expected a known machine", name));
      if (base == known_machines().end()) continue;
      const std::string own = machine.name;
      machine = *base;
      machine.name = own;
      machine.meaning = fmt::format("{} of {}", path, name);
    }
  }
  for (const auto& [key, value] : json.items()) {
    const auto number = std::ranges::find_if(kNumbers, [&](const Field& field) { return key == field.name; });
    const bool is_positive = value.is_number() && value.get<double>() > 0;
    if (key == "base") continue;
    if (number != std::end(kNumbers)) {
      const double most = key == "efficiency" ? 1 : 1e30;
      expect(is_positive && value.get<double>() <= most,
             fmt::format("{}: expected a number above 0, at most {:g}", key, most));
      if (value.is_number()) machine.*number->number = value.get<double>();
    } else if (key == "memory") {
      expect(is_positive, "memory: expected a number of bytes above 0");
      if (is_positive) machine.memory = static_cast<std::int64_t>(std::min(value.get<double>(), 9e18));
    } else if (key == "devices_per_host") {
      expect(value.is_number_integer() && is_positive && value.get<double>() <= 1024,
             "devices_per_host: expected an integer from 1 to 1024");
      if (value.is_number_integer()) machine.devices_per_host = value.get<int>();
    } else {
      expect(false, fmt::format("{}: unknown; expected base, memory, devices_per_host, {}", key,
                                fmt::join(
                                    [] {
                                      std::vector<std::string> names;
                                      for (const Field& field : kNumbers) names.emplace_back(field.name);
                                      return names;
                                    }(),
                                    ", ")));
    }
  }
  for (const auto& [name, value] : {std::pair{"memory", static_cast<double>(machine.memory)},
                                    {"matmul_flops", machine.matmul_flops},
                                    {"memory_bandwidth", machine.memory_bandwidth}})
    expect(value > 0 || json.contains(name),
           fmt::format("{}: found nothing; expected a number, or a base that has it", name));
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
  std::vector<std::string> names = {"cpu"};
  for (const Machine& machine : known_machines()) {
    if (machine.name == name_or_file) return machine;
    names.push_back(machine.name);
  }
  if (std::filesystem::exists(name_or_file)) return read_machine(name_or_file);
  throw ConfigError("--gpu: found \"{}\"; expected {} or the path of a JSON file.", name_or_file,
                    fmt::join(names, ", "));
}

}  // namespace adept::plan
