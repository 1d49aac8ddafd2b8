// What a plan knows of the hardware: memory, rates, links, price.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace adept::plan {

/// One device and what connects it. Rates are peaks of the data sheet; `efficiency` says what of them a step reaches.
struct Machine {
  std::string name;              ///< "h100"
  std::string meaning;           ///< for help and the report
  std::int64_t memory = 0;       ///< bytes
  double matmul_flops = 0;       ///< per second, dense, in bf16
  double matmul_flops_fp32 = 0;  ///< likewise in fp32 (TF32 is off)
  double memory_bandwidth = 0;   ///< bytes per second
  double link_bandwidth = 0;     ///< bytes per second and direction, between devices of one host
  double network_bandwidth = 0;  ///< bytes per second and direction of one device, between hosts
  int devices_per_host = 8;
  double efficiency = 0.4;    ///< of matmul_flops that a step reaches, 0 to 1
  double price_per_hour = 0;  ///< of one device; 0: unknown

  /// Operations per second that a step reaches.
  double rate(bool is_fp32) const { return efficiency * (is_fp32 ? matmul_flops_fp32 : matmul_flops); }
  /// Bytes per second between so many ranks; 0: unknown.
  double bandwidth(std::int64_t ranks) const { return ranks <= devices_per_host ? link_bandwidth : network_bandwidth; }

  bool is_this_one = false;  ///< its times are measured, and its ranks share memory and cores
};

/// The GPUs that are known by name. Sources are beside the numbers.
const std::vector<Machine>& known_machines();

/// "cpu" is this machine; a name of known_machines(); or the path of a JSON file with the fields of Machine, which may
/// name another as `base` and give only what differs. Throws ConfigError with all problems.
Machine find_machine(const std::string& name_or_file);

}  // namespace adept::plan
