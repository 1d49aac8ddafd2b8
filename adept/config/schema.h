// The one description of the configuration: every field's name, limits, unit and meaning. Reading, writing, --set and
// --explain are visitors of it. To add a field: a member with its default in run_config.h or the options.h of a folder,
// one line here; a key says what it decides where that is not what its section does.
//
// A visitor is called as visitor(member, name, meaning, options) for each field, in order; options may be left out.
#pragma once

#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "adept/config/run_config.h"

namespace adept::config {

/// The values that a number may have.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;  ///< min itself is excluded
  bool below_max = false;  ///< max itself is excluded

  bool contains(double value) const {
    return (above_min ? value > min : value >= min) && (below_max ? value < max : value <= max);
  }
  /// " > 0", " >= 1", " from 0 to 1", " >= 0 and < 1", or nothing.
  std::string text() const;
};

inline constexpr Range kPositive{.min = 0, .above_min = true};
inline constexpr Range kWeight{.min = 0, .max = 1e6, .above_min = true};
inline constexpr Range kNotNegative{.min = 0};
inline constexpr Range kFraction{.min = 0, .max = 1};
inline constexpr Range kBelowOne{.min = 0, .max = 1, .below_max = true};
/// Counts have an upper limit, so that products of a few of them cannot overflow 64 bits.
inline constexpr Range kStepCount{.min = 0, .max = 1e9};
inline constexpr Range kSteps{.min = 1, .max = 1e9};
inline constexpr Range kTokens{.min = 0, .max = 1e15};
inline constexpr Range kSequences{.min = 1, .max = 65536};

/// What is known about a field beside its name, meaning, type and default.
struct FieldOptions {
  std::string_view unit = "";      ///< of a number
  Range range = {};                ///< of a number, or of each number of a list
  bool required = false;           ///< there is no default; a list must not be empty
  std::string_view fallback = "";  ///< what happens where an optional field is not set
  unsigned decides = 0;            ///< of config::decides; 0: what the section around it does
  /// Of a string: the names that it may be, of a table that the configuration does not know.
  std::vector<std::string> (*names)() = nullptr;
};

/// Fields that have fields of their own.
template <typename T>
inline constexpr bool kIsSection = std::is_class_v<T>;
template <>
inline constexpr bool kIsSection<std::string> = false;
template <typename T>
inline constexpr bool kIsSection<std::optional<T>> = false;
template <typename T>
inline constexpr bool kIsSection<std::vector<T>> = false;

/// A key that excludes others: given on the command line, it unsets them where the file has them (KEY=VALUE: where they
/// have that value).
struct Exclusion {
  std::string_view key;
  std::string_view others;  ///< separated by blanks
};
inline constexpr Exclusion kExclusions[] = {
    {"train.max_steps", "train.num_train_epochs"},
    {"train.num_train_epochs", "train.max_steps"},
    {"train.warmup_steps", "train.warmup_ratio"},
    {"train.warmup_ratio", "train.warmup_steps"},
    {"expand.after", "expand.num_layers expand.trainable expand.strategy expand.copies expand.exclude"},
    {"expand.num_layers", "expand.trainable expand.after expand.strategy=manual"},
    {"expand.trainable", "expand.num_layers expand.after expand.strategy=manual"},
};

template <typename Visitor>
void describe(Visitor& v, data::TextSource& c) {
  v(c.name, "name", "Name of the set in results and file names; unique in the configuration", {.required = true});
  v(c.paths, "path", "One or more .txt or .jsonl files (also .gz), folders, globs", {.required = true});
  v(c.text_field, "text_field",
    "Field of a .jsonl record that holds the text; question, choices and answer are rendered");
  v(c.txt_record, "txt_record", "What one document of a .txt file is");
  v(c.on_bad_record, "on_bad_record", "What to do about an unreadable record: stop, or skip and count it");
}

template <typename Visitor>
void describe(Visitor& v, TrainSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.weight, "weight", "Share of the training tokens, relative to the other sources; for all sources or for none",
    {.range = kWeight, .fallback = "by size"});
}

template <typename Visitor>
void describe(Visitor& v, GeneralSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.weight, "weight", "Weight of the source in what is measured on several, relative; for all sources or for none",
    {.range = kWeight, .fallback = "all the same"});
}

template <typename Visitor>
void describe(Visitor& v, EvalSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.role, "role", "What the set stands for in the final table");
}

template <typename Visitor>
void describe(Visitor& v, DataConfig& c) {
  v(c.train, "train", "Training text: the domain, and replay of general text", {.required = true});
  v(c.replay, "replay", "General text that is mixed into the training text as train.replay_ratio says");
  v(c.general, "general", "General text that layer and unit importance are measured on");
  v(c.eval, "eval", "Held-out text whose loss is measured before, during and after training");
  v(c.document_mask, "document_mask",
    "Documents that share a training sequence do not see each other, and no document's first token is predicted from "
    "another; false: a token sees all of its sequence before it",
    {.decides = decides::kTraining | decides::kEvaluation});
}

template <typename Visitor>
void describe(Visitor& v, method::LayerProbeOptions& c) {
  v(c.method, "method", "How layer importance is scored; mask_out is the loss without the layer",
    {.names = method::general_importance_methods});
  v(c.max_tokens, "max_tokens", "Size of the probe: a sample of data.general, shared equally by its sources; 0 = all",
    {.unit = "tokens", .range = kTokens});
  v(c.until_separated, "until_separated",
    "Stop before max_tokens as soon as the choice of the lowest layers is certain (95 %)");
  v(c.batch_size, "batch_size", "Batch of the probe",
    {.unit = "sequences", .range = kSequences, .decides = decides::kProbe | decides::kEnd});
}

template <typename Visitor>
void describe(Visitor& v, method::SelectionOptions& c) {
  constexpr Range layer_index = {.min = 0, .max = 10000};
  v(c.strategy, "strategy",
    "Which layers are copied: lowest importance; cost_aware, the highest of those that the probe cannot tell from the "
    "lowest; evenly spread; highest importance; highest gain in the first source of data.train for what a step costs; "
    "or those in after",
    {.fallback = "lowest; manual with after"});
  v(c.num_layers, "num_layers", "How many layers are copied; not together with trainable or after",
    {.unit = "layers", .range = {.min = 1, .max = 10000}, .fallback = "4"});
  v(c.trainable, "trainable",
    "Instead of num_layers: the largest share of all parameters that the copies may take, such as 15%",
    {.unit = "of all parameters", .range = {.min = 0, .max = 1, .above_min = true, .below_max = true}});
  v(c.after, "after", "Layers to copy, by index in the base model, without a probe; an index once for each copy",
    {.unit = "layer indices", .range = layer_index});
  v(c.copies, "copies", "Copies of each chosen layer", {.unit = "copies", .range = {.min = 1, .max = 100}});
  v(c.exclude, "exclude", "Layers that are never chosen", {.unit = "layer indices", .range = layer_index});
}

template <typename Visitor>
void describe(Visitor& v, TrainConfig& c) {
  v(c.learning_rate, "learning_rate", "Peak learning rate, before the factor of each unit", {.range = kPositive});
  v(c.lr_scheduler, "lr_scheduler", "Course of the learning rate after the warm-up");
  v(c.warmup_steps, "warmup_steps", "Linear warm-up; more than 0 wins over warmup_ratio",
    {.unit = "steps", .range = kStepCount});
  v(c.warmup_ratio, "warmup_ratio", "Linear warm-up as a share of all steps",
    {.unit = "of all steps", .range = kFraction, .fallback = "0.03"});
  v(c.min_lr_ratio, "min_lr_ratio", "Last learning rate of linear, cosine and wsd",
    {.unit = "of learning_rate", .range = kFraction});
  v(c.decay_ratio, "decay_ratio", "Decay at the end of wsd", {.unit = "of all steps", .range = kFraction});
  v(c.max_steps, "max_steps", "Length of the training; wins over num_train_epochs",
    {.unit = "steps", .range = kSteps, .decides = decides::kEnd});
  v(c.num_train_epochs, "num_train_epochs",
    "Length of the training in passes over the first source of data.train; the others follow by weight",
    {.unit = "epochs", .range = {.min = 0, .max = 1e6, .above_min = true}, .fallback = "1", .decides = decides::kEnd});
  v(c.replay_ratio, "replay_ratio", "Share of the training sequences that data.replay gives",
    {.unit = "of all sequences", .range = kBelowOne, .fallback = "0.25 for the method replay, else 0"});
  v(c.continue_data, "continue_data",
    "Start where the run that trained the model stopped in the data, instead of at its beginning");
  v(c.batch_size, "batch_size", "Micro-batch", {.unit = "sequences", .range = kSequences});
  v(c.grad_accum, "grad_accum", "Micro-batches whose gradients make one step",
    {.unit = "micro-batches", .range = kSequences});
  v(c.activation_checkpointing, "activation_checkpointing",
    "What the backward pass recomputes: nothing, the feed-forward of each layer, or whole layers (of the lowest "
    "trained "
    "one the feed-forward); less memory for more time, the same result",
    {.decides = decides::kNothing});
  v(c.activation_cache, "activation_cache",
    "Disk space in output_dir, during training, for activations below the lowest trained layer that are needed again "
    "(in later epochs, if all fit, importance updates, evaluations); 0 = off; the same result",
    {.unit = "GB", .range = {.min = 0, .max = 1e6}, .decides = decides::kNothing});
  v(c.adamw.weight_decay, "weight_decay", "AdamW's decoupled weight decay of matrices", {.range = kNotNegative});
  v(c.adamw.beta1, "adam_beta1", "AdamW's decay of the first moment", {.range = kBelowOne});
  v(c.adamw.beta2, "adam_beta2", "AdamW's decay of the second moment", {.range = kBelowOne});
  v(c.adamw.eps, "adam_eps", "AdamW's term against division by zero", {.range = kPositive});
  v(c.max_grad_norm, "max_grad_norm", "Global gradient norm to clip to; 0 = off", {.range = kNotNegative});
  v(c.logging_steps, "logging_steps", "Interval of lines in trainer_log.jsonl, and of what report_to gets",
    {.unit = "steps", .range = kSteps, .decides = decides::kNothing});
  v(c.report_to, "report_to",
    "Where the lines of trainer_log.jsonl go as well, as in Hugging Face's trainer: tensorboard, event files in "
    "output_dir/runs",
    {.decides = decides::kNothing});
  v(c.eval_steps, "eval_steps", "Interval of evaluations on data.eval; 0 = only at the end",
    {.unit = "steps", .range = kStepCount, .decides = decides::kNothing});
  v(c.save_steps, "save_steps", "Interval of checkpoints; 0 = only at the end",
    {.unit = "steps", .range = kStepCount, .decides = decides::kNothing});
  v(c.save_total_limit, "save_total_limit", "Checkpoints to keep, the newest",
    {.unit = "checkpoints", .range = {.min = 2, .max = 1e6}, .decides = decides::kNothing});
  v(c.max_nonfinite_steps, "max_nonfinite_steps", "Steps in a row with a non-finite loss or gradient that stop the run",
    {.unit = "steps", .range = kSteps, .decides = decides::kNothing});
}

template <typename Visitor>
void describe(Visitor& v, method::UnitFactor& c) {
  v(c.units, "units", "Pattern of unit names with the wildcards * and ?, such as *.mlp.*", {.required = true});
  v(c.factor, "factor", "Factor of their learning rate; 0 freezes them", {.range = kNotNegative});
}

template <typename Visitor>
void describe(Visitor& v, method::UnitLrOptions& c) {
  v(c.policy, "policy",
    "Rate factor of each unit: reference, 2 (I_max - I) / (I_max - I_min); uniform, 1; normalized, norm gains and "
    "biases ranged apart from matrices, floor + (1 - floor) (I_max - I) / (I_max - I_min), divided by its mean over "
    "elements");
  v(c.by_head, "by_head", "Split the attention's projections into a unit for each head");
  v(c.ffn_block_size, "ffn_block_size", "Split the feed-forward's projections into units of so many neurons; 0 = whole",
    {.unit = "neurons", .range = {.min = 0, .max = 1e9}});
  v(c.floor, "floor", "Least factor of the policy normalized, before its division by the mean", {.range = kFraction});
  v(c.ema, "ema", "Share of the earlier importance that an update keeps",
    {.range = kBelowOne, .fallback = "0.5 for the policy normalized, else 0"});
  v(c.factors, "factors", "Further factors of units by name, in any policy");
  v(c.update_every, "update_every", "Interval of importance updates", {.unit = "steps", .range = kSteps});
  v(c.probe_tokens, "probe_tokens", "Sample of data.general for each importance update, shared equally by its sources",
    {.unit = "tokens", .range = {.min = 1, .max = 1e15}});
}

template <typename Visitor>
void describe(Visitor& v, LoraConfig& c) {
  v(c.rank, "rank", "Rank of the adapters", {.range = {.min = 1, .max = 65536}});
  v(c.alpha, "alpha", "The adapters' output is multiplied by alpha / rank", {.range = kPositive, .fallback = "2 rank"});
  v(c.dropout, "dropout", "Dropout of the adapters' input in training", {.range = kBelowOne});
  v(c.target_modules, "target_modules",
    "Projections that get an adapter, such as [q_proj, v_proj]; [] = all of the layers");
}

template <typename Visitor>
void describe(Visitor& v, TopKLayersConfig& c) {
  v(c.num_layers, "num_layers", "How many of the last layers train",
    {.unit = "layers", .range = {.min = 1, .max = 10000}});
}

template <typename Visitor>
void describe(Visitor& v, EvalConfig& c) {
  v(c.batch_size, "batch_size", "Batch of the evaluation", {.unit = "sequences", .range = kSequences});
  v(c.packed, "packed", "Score packed sequences, as training sees the data, instead of single documents");
  v(c.stride, "stride", "Step between the windows of long documents; 0 = seq_len",
    {.unit = "tokens", .range = {.min = 0, .max = 1 << 20}});
  v(c.max_tokens, "max_tokens", "Sample of each set that is scored, the same before and after training; 0 = all",
    {.unit = "tokens", .range = kTokens});
  v(c.copies_tokens, "copies_tokens",
    "Sample of each set on which the loss without each copy is measured after training; 0 = not measured",
    {.unit = "tokens", .range = kTokens, .decides = decides::kCopies});
}

template <typename Visitor>
void describe(Visitor& v, RunConfig& c) {
  v(c.model, "model", "Model directory, or a hub id in the local cache",
    {.required = true, .decides = decides::kContents});
  v(c.output_dir, "output_dir", "Run directory: checkpoints, logs, results, the exported model",
    {.required = true, .decides = decides::kNothing});
  v(c.method, "method",
    "What trains: identity copies at rates by importance (adept) or at one rate (llama_pro), everything without or "
    "with replayed general text (full, replay), adapters of all projections (lora), the last layers (top_k_layers)",
    {.decides = decides::kTraining});
  v(c.keep_expanded, "keep_expanded", "Keep the expanded model as it was before training, in output_dir/expanded",
    {.decides = decides::kNothing});
  v(c.seed, "seed", "Seed of data order and sampling",
    {.range = {.min = 0, .max = 4294967295}, .decides = decides::kTraining});
  v(c.compute.dtype, "dtype",
    "Precision to compute in; auto: bf16 where the processor or GPU multiplies it natively, else fp32; trained weights "
    "and moments are always fp32",
    {.decides = decides::kProbe | decides::kTraining | decides::kEvaluation | decides::kCopies});
  v(c.export_dtype, "export_dtype", "Type of every tensor of the exported model; auto: each as in the files of model",
    {.decides = decides::kEnd});
  v(c.compute.device, "device", "Where to compute", {.decides = decides::kNothing});
  v(c.compute.threads, "threads", "Threads to compute with; 0 = the physical cores available",
    {.unit = "threads", .range = {.min = 0, .max = 1024}, .decides = decides::kNothing});
  v(c.compute.kernels, "kernels", "Fused kernels, or plain operations to compare them with",
    {.decides = decides::kNothing});
  v(c.seq_len, "seq_len", "Longest sequence in training, probe and evaluation",
    {.unit = "tokens",
     .range = {.min = 2, .max = 1 << 20},
     .decides = decides::kProbe | decides::kTraining | decides::kEvaluation | decides::kCopies});
  v(c.data, "data", "The texts", {.decides = decides::kContents});
  v(c.probe, "probe", "Stage 1, step 1: layer importance (method adept)", {.decides = decides::kProbe});
  v(c.expand, "expand", "Stage 1, step 2: which layers are copied (adept, llama_pro)",
    {.decides = decides::kExpansion});
  v(c.train, "train", "Stage 2: training", {.decides = decides::kTraining});
  v(c.unit_lr, "unit_lr", "Stage 2: learning rate of each unit (adept)", {.decides = decides::kTraining});
  v(c.lora, "lora", "The method lora", {.decides = decides::kTraining});
  v(c.top_k_layers, "top_k_layers", "The method top_k_layers", {.decides = decides::kTraining});
  v(c.eval, "eval", "How loss and perplexity are measured", {.decides = decides::kEvaluation | decides::kCopies});
}

}  // namespace adept::config
