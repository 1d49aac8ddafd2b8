// Commands that measure by one process, or by the several of a job that divide the work: --nproc, torchrun, srun.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

#include "adept/config/run_config.h"
#include "adept/dist/options.h"

namespace adept::cli {

struct JobOptions {
  std::int64_t nproc = 1;
  dist::DistOptions dist;
};

/// --nproc, and --shard-base and --timeout for the keys of `dist` that concern measurements.
void add_job_options(CLI::App& command, JobOptions& options);

/// Joins the job in which this process was started, if it is one of several. Call before anything else uses the
/// processor. Throws like run::join_job; ConfigError for --shard-base in a process alone.
void join_job(const JobOptions& options, config::Device device);

/// Throws dist::DisagreementError on every process if they have different programs or arguments; those that may differ,
/// such as --threads, are not compared. Call first of all that the processes do together, when `compute` is decided.
void require_same_command(const CLI::App& command, const config::Compute& compute);

}  // namespace adept::cli
