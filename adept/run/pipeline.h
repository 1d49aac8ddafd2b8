// The life of a run, from text to exported model:
//
//     tokenize -> baseline -> probe -> expand -> train -> export -> evaluate
//
// in one directory, each stage skipped when its output is there and its inputs are unchanged:
//
//     config.yaml, versions.json      the resolved configuration, and what it ran on
//     data/<source>.tokens            tokenized text
//     eval_base.json                  the base model on data.eval
//     importance.json                 layer importance on data.general
//     expanded/                       the expanded model, before training; afterwards with keep_expanded only
//     checkpoint-<step>/, trainer_log.jsonl, parameter_importance.jsonl
//     model/                          the result: a plain Hugging Face model
//     eval_model.json                 the result on data.eval, loaded from model/
//     all_results.json                everything in one place
#pragma once

#include "adept/config/run_config.h"

namespace adept::run {

/// `adept run`: all of it. Prints the final table on standard output. An interrupted run goes on where it was.
void run_pipeline(const config::RunConfig& config);

/// `adept train`: tokenize -> baseline -> train -> export -> evaluate, of a model that is expanded already. Without
/// `resume`, a ConfigError if output_dir holds checkpoints of a training that is not finished or was another one.
void run_training(const config::RunConfig& config, bool resume);

}  // namespace adept::run
