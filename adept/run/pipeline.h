// The life of a run, from text to exported model:
//
//     tokenize -> baseline -> probe -> expand -> train -> export -> evaluate
//
// in one directory; a stage is skipped if its output exists and its inputs are unchanged:
//
//     config.yaml, versions.json      the resolved configuration, and what it ran on
//     data/<source>.tokens/           its tokens (token_cache.h); <source>.skipped.jsonl lists the first bad records
//     contamination.json              what the training text shares with data.eval (training_text.h)
//     eval_base.json                  the base model on data.eval
//     importance.json                 layer importance on data.general
//     expanded/                       the expanded model, before training; afterwards with keep_expanded only
//     checkpoint-<step>/, trainer_log.jsonl, parameter_importance.jsonl
//     model/                          the result: a plain Hugging Face model
//     eval_model.json                 the result on data.eval, loaded from model/
//     all_results.json                everything in one place
#pragma once

#include "adept/config/run_config.h"
#include "adept/data/train_loader.h"

namespace adept::run {

/// `adept run`: all stages. Prints the final table on standard output. An interrupted run continues, with another
/// mixture if that is allowed.
void run_pipeline(const config::RunConfig& config, data::OtherMixture other = data::OtherMixture::kRefused);

/// `adept train`: tokenize -> baseline -> train -> export -> evaluate, for an already expanded model. Without `resume`,
/// throws ConfigError if output_dir contains checkpoints of an unfinished or different training.
void run_training(const config::RunConfig& config, bool resume,
                  data::OtherMixture other = data::OtherMixture::kRefused);

}  // namespace adept::run
