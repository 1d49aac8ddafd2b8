// The one description of the configuration: every field's name, limits, unit and meaning. Reading, writing, --set and
// --explain are visitors of it. To add a field: a member with its default in run_config.h or the options.h of a folder,
// one line here; a key states what it decides if that differs from its section.
//
// A visitor is called as visitor(member, name, meaning, options) for each field, in order; options may be omitted.
#pragma once

#include <fmt/format.h>

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

constexpr unsigned bit_of(train::Method method) { return 1U << static_cast<unsigned>(method); }
inline constexpr unsigned kAdeptOnly = bit_of(train::Method::kAdept);
inline constexpr unsigned kMethodsWithCopies = kAdeptOnly | bit_of(train::Method::kLlamaPro);
/// Those that do not train every row of the embedding.
inline constexpr unsigned kMethodsWithoutEmbeddings =
    kMethodsWithCopies | bit_of(train::Method::kLora) | bit_of(train::Method::kTopKLayers);
inline constexpr unsigned kAllMethods = ~0U;

/// Properties of a field in addition to its name, meaning, type and default.
struct FieldOptions {
  std::string_view unit = "";  ///< of a number
  Range range = {};            ///< of a number, or of each number of a list
  bool required = false;       ///< there is no default; a list must not be empty
  std::string fallback{};      ///< what an unset optional field means
  unsigned decides = 0;        ///< of config::decides; 0: same as the enclosing section
  unsigned methods = 0;        ///< of bit_of: those that use the field; 0: same as the enclosing section
  /// Of a string: the names that it may be, of a table that the configuration does not know.
  std::vector<std::string> (*names)() = nullptr;
  bool multiline = false;  ///< of a string: it may have line breaks and tabs
};

/// Fields that contain fields.
template <typename T>
inline constexpr bool kIsSection = std::is_class_v<T>;
template <>
inline constexpr bool kIsSection<std::string> = false;
template <>
inline constexpr bool kIsSection<data::WeightSchedule> = false;
template <typename T>
inline constexpr bool kIsSection<std::optional<T>> = false;
template <typename T>
inline constexpr bool kIsSection<std::vector<T>> = false;

/// A key that excludes others: on the command line, it unsets them in the file (KEY=VALUE: only if they have that
/// value).
struct Exclusion {
  std::string_view key;
  std::string_view others;  ///< separated by spaces
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
  v(c.name, "name", "Name of the dataset in results and file names; must be unique", {.required = true});
  v(c.paths, "path",
    "Text: files in the formats of format, text forms plain or compressed (.gz, .zst); directories; globs; @FILE, "
    "which lists paths, one per line; or - (standard input)",
    {.required = true});
  v(c.format, "format", "Format of all files, whatever their extensions",
    {.fallback = "by extension", .names = data::format_names});
  v(c.split, "split",
    "Split to read of the directories and globs in path, by the names of files and directories as in Hugging Face "
    "data sets: train, validation (val, dev), test, or any name in front of -00000-of-00001",
    {.fallback = "all"});
  v(c.text_field, "text_field",
    "Field of each record that holds the text; meta.text is a field of the object in meta. Multiple-choice records "
    "(question, choices, answer) are converted to text",
    {.fallback = data::kDefaultTextField});
  v(c.text_template, "template",
    "Instead of text_field: text with fields of each record in braces, such as \"{question}\\n{answer}\"; {{ and }} "
    "stand for braces",
    {.multiline = true});
  v(c.messages_field, "messages_field",
    "Instead of text_field: field with the messages of a conversation (role and content), which the model's chat "
    "template converts to text");
  v(c.train_on, "train_on",
    "Tokens of the conversations in messages_field that are trained on and measured: all, or those of the answers of "
    "the assistant; the others are then context only");
  v(c.txt_record, "txt_record", "What counts as one document in a text file",
    {.fallback = std::string(to_string(data::TxtRecord::kFile))});
  v(c.on_bad_record, "on_bad_record", "How to handle invalid records: fail stops the run, skip counts and skips them");
}

template <typename Visitor>
void describe(Visitor& v, TrainSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.weight, "weight",
    "Share of the training tokens, relative to the other sources; set it for all sources or for none. A list of "
    "[progress, weight] changes it linearly from point to point, such as [[0, 1], [0.8, 1], [1, 5]]",
    {.range = kWeight, .fallback = "by size"});
  v(c.epochs, "epochs",
    "Limit of passes over the source. A source stops at its limit, and the others keep their relative weights",
    {.unit = "epochs", .range = {.min = 0, .max = 1e6, .above_min = true}, .fallback = "no limit"});
  v(c.max_tokens, "max_tokens", "Limit of training tokens of the source",
    {.unit = "tokens", .range = {.min = 1, .max = 1e15}, .fallback = "no limit"});
  v(c.tag, "tag",
    "Text in front of each document (after BOS) that tells the model its source, such as \"<medicine> \". It is "
    "context only: the model does not learn to predict it",
    {.multiline = true});
}

template <typename Visitor>
void describe(Visitor& v, GeneralSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.weight, "weight",
    "Weight of the source in measurements, relative to the other sources; set it for all sources or for none",
    {.range = kWeight, .fallback = "equal"});
}

template <typename Visitor>
void describe(Visitor& v, EvalSource& c) {
  describe(v, static_cast<data::TextSource&>(c));
  v(c.role, "role", "Role of the dataset in the final table");
}

template <typename Visitor>
void describe(Visitor& v, DataConfig& c) {
  v(c.train, "train", "Training text: domain text, optionally with general text for replay", {.required = true});
  v(c.replay, "replay",
    "General text to mix into the training text, against forgetting; train.replay_ratio sets its share. Without any, "
    "the text of data.general is replayed, unless data.train has weights, or data.train or data.eval reads it too");
  v(c.general, "general", "General text for measuring layer importance and unit importance");
  v(c.eval, "eval", "Held-out text, evaluated before, during and after training");
  v(c.deduplicate, "deduplicate",
    "Leave out documents of data.train and data.replay that repeat an earlier one exactly, of the same or another "
    "source",
    {.decides = decides::kMixture});
  v(c.drop_contaminated, "drop_contaminated",
    "Leave out documents of data.train and data.replay that share 13 tokens in a row with data.eval. What they share "
    "is "
    "always reported, in contamination.json",
    {.decides = decides::kMixture});
  v(c.packing, "packing",
    "How documents become training sequences. concat: joined and cut every seq_len tokens; best_fit: no document that "
    "fits into seq_len is split, at the price of some padding",
    {.decides = decides::kTraining});
  v(c.temperature, "temperature",
    "Without weights, the share of a source is proportional to tokens^(1 / temperature): above 1, small sources get "
    "more",
    {.range = {.min = 0.01, .max = 1e6}, .decides = decides::kMixture});
  v(c.document_mask, "document_mask",
    "Documents packed into one sequence do not attend to each other, and the first token of a document is not "
    "predicted. false: a token attends to everything before it in its sequence",
    {.decides = decides::kTraining | decides::kEvaluation});
  v(c.verify, "verify",
    "Before anything else, check all tokens of the token stores, and that the files of the texts have the bytes that "
    "the stores were made of. false: tokens are checked where they are read, files by size, time and samples",
    {.decides = decides::kNothing});
}

template <typename Visitor>
void describe(Visitor& v, method::LayerProbeOptions& c) {
  v(c.method, "method", "How layer importance is measured. " + method::general_importance_meanings("; "),
    {.names = method::general_importance_methods});
  v(c.max_tokens, "max_tokens", "Sample size of the probe, split evenly among the sources of data.general; 0 uses all",
    {.unit = "tokens", .range = kTokens});
  v(c.until_separated, "until_separated",
    "Stop before max_tokens once the choice of the lowest layers is statistically certain (95 %)");
  v(c.batch_size, "batch_size",
    "Batch size of the probe and of the measurement of unit importance. It affects unit importance, so a resumed "
    "training must keep it",
    {.unit = "sequences", .range = kSequences, .decides = decides::kProbe | decides::kTraining});
}

template <typename Visitor>
void describe(Visitor& v, method::SelectionOptions& c) {
  constexpr Range layer_index = {.min = 0, .max = 10000};
  v(c.strategy, "strategy", "Which layers are copied. " + method::selection_strategy_meanings("; "),
    {.fallback = "lowest; manual with after", .names = method::selection_strategies});
  v(c.num_layers, "num_layers", "Number of layers to copy; excludes trainable and after",
    {.unit = "layers", .range = {.min = 1, .max = 10000}, .fallback = fmt::format("{}", kDefaultNumLayers)});
  v(c.trainable, "trainable", "Instead of num_layers: upper limit on the copies' share of all parameters, such as 15%",
    {.unit = "of all parameters", .range = {.min = 0, .max = 1, .above_min = true, .below_max = true}});
  v(c.after, "after", "Layers to copy, by index in the base model, without a probe; repeat an index for several copies",
    {.unit = "layer indices", .range = layer_index});
  v(c.copies, "copies", "Number of copies of each selected layer", {.unit = "copies", .range = {.min = 1, .max = 100}});
  v(c.exclude, "exclude", "Layers that are never copied", {.unit = "layer indices", .range = layer_index});
}

template <typename Visitor>
void describe(Visitor& v, train::TrainOptions& c) {
  v(c.learning_rate, "learning_rate", "Peak learning rate, before each unit's factor", {.range = kPositive});
  v(c.lr_scheduler, "lr_scheduler", "Learning rate schedule after warm-up");
  v(c.warmup_steps, "warmup_steps", "Length of the linear warm-up; overrides warmup_ratio if above 0",
    {.unit = "steps", .range = kStepCount});
  v(c.warmup_ratio, "warmup_ratio", "Length of the linear warm-up, as a fraction of all steps",
    {.unit = "of all steps", .range = kFraction, .fallback = fmt::format("{:g}", kDefaultWarmupRatio)});
  v(c.min_lr_ratio, "min_lr_ratio", "Final learning rate of linear, cosine and wsd, as a fraction of the peak",
    {.unit = "of learning_rate", .range = kFraction});
  v(c.decay_ratio, "decay_ratio", "Length of the final decay of wsd, as a fraction of all steps",
    {.unit = "of all steps", .range = kFraction});
  v(c.max_steps, "max_steps", "Number of training steps; overrides num_train_epochs",
    {.unit = "steps", .range = kSteps, .decides = decides::kEnd});
  v(c.num_train_epochs, "num_train_epochs",
    "Number of passes over the first source of data.train; the other sources follow by weight",
    {.unit = "epochs",
     .range = {.min = 0, .max = 1e6, .above_min = true},
     .fallback = fmt::format("{:g}", kDefaultEpochs),
     .decides = decides::kEnd});
  v(c.replay_ratio, "replay_ratio",
    "Fraction of the training tokens taken from data.replay. 1 % already prevents most forgetting (arXiv:2502.06042); "
    "0 disables replay. A list of [progress, fraction] changes it linearly, such as [[0, 0.1], [1, 0.02]]",
    {.unit = "of all tokens",
     .range = kBelowOne,
     .fallback =
         fmt::format("{:g} if there is text to replay ({:g} with method: replay)", kReplayRatio, kReplayMethodRatio),
     .decides = decides::kMixture});
  v(c.continue_data, "continue_data",
    "Start at the data position where the run that trained the model stopped, instead of at the beginning");
  v(c.train_new_embeddings, "train_new_embeddings",
    "Also train the rows of the embedding and the head that belong to tokens added by adept expand-vocab",
    {.methods = kMethodsWithoutEmbeddings});
  v(c.batch_size, "batch_size", "Size of a micro-batch", {.unit = "sequences", .range = kSequences});
  v(c.grad_accum, "grad_accum", "Gradient accumulation: number of micro-batches per step",
    {.unit = "micro-batches", .range = kSequences});
  v(c.activation_checkpointing, "activation_checkpointing",
    "What the backward pass recomputes instead of keeping. selective: the feed-forward block of each layer; full: "
    "whole layers (in the lowest trained layer, its feed-forward block). Trades time for memory; the result is the "
    "same",
    {.decides = decides::kNothing});
  v(c.activation_cache, "activation_cache",
    "Disk space in output_dir for caching activations below the lowest trained layer during training. Later epochs (if "
    "all fit), importance updates and evaluations reuse them. 0 disables the cache; the result is the same",
    {.unit = "GB", .range = {.min = 0, .max = 1e6}, .decides = decides::kNothing});
  v(c.adamw.weight_decay, "weight_decay", "AdamW: decoupled weight decay, applied to matrices only",
    {.range = kNotNegative});
  v(c.adamw.beta1, "adam_beta1", "AdamW: decay rate of the first moment", {.range = kBelowOne});
  v(c.adamw.beta2, "adam_beta2", "AdamW: decay rate of the second moment", {.range = kBelowOne});
  v(c.adamw.eps, "adam_eps", "AdamW: term added to the denominator for numerical stability", {.range = kPositive});
  v(c.max_grad_norm, "max_grad_norm", "Maximum global gradient norm, for clipping; 0 disables clipping",
    {.range = kNotNegative});
  v(c.logging_steps, "logging_steps", "Interval between lines in trainer_log.jsonl and in the sinks of report_to",
    {.unit = "steps", .range = kSteps, .decides = decides::kNothing});
  v(c.report_to, "report_to",
    "Additional sinks for the metrics in trainer_log.jsonl, as in the Hugging Face Trainer. tensorboard: event files "
    "in output_dir/runs",
    {.decides = decides::kNothing});
  v(c.eval_steps, "eval_steps", "Interval between evaluations on data.eval; 0: only at the end",
    {.unit = "steps", .range = kStepCount, .decides = decides::kNothing});
  v(c.save_steps, "save_steps", "Interval between checkpoints; 0: only at the end",
    {.unit = "steps", .range = kStepCount, .decides = decides::kNothing});
  v(c.save_total_limit, "save_total_limit", "Number of newest checkpoints to keep",
    {.unit = "checkpoints", .range = {.min = 2, .max = 1e6}, .decides = decides::kNothing});
  v(c.max_nonfinite_steps, "max_nonfinite_steps",
    "Number of consecutive steps with a non-finite loss or gradient that stops the run",
    {.unit = "steps", .range = kSteps, .decides = decides::kNothing});
  v(c.verify_every, "verify_every",
    "Interval between steps whose gradients are computed twice and compared bit by bit, to find faulty memory and "
    "processors. 0: none; the result is the same",
    {.unit = "steps", .range = kStepCount, .decides = decides::kNothing});
}

template <typename Visitor>
void describe(Visitor& v, method::UnitFactor& c) {
  v(c.units, "units", "Pattern of unit names, with the wildcards * and ?, such as *.mlp.*", {.required = true});
  v(c.factor, "factor", "Factor on their learning rate; 0 freezes them", {.range = kNotNegative});
}

template <typename Visitor>
void describe(Visitor& v, method::UnitLrOptions& c) {
  v(c.policy, "policy",
    "Learning rate factor of a unit, given its importance I. " + method::unit_lr_policy_meanings("; "),
    {.names = method::unit_lr_policies});
  v(c.by_head, "by_head", "Split attention projections into one unit per head", {.methods = kMethodsWithCopies});
  v(c.ffn_block_size, "ffn_block_size",
    "Split feed-forward projections into units of this many neurons; 0: one unit per projection",
    {.unit = "neurons", .range = {.min = 0, .max = 1e9}, .methods = kMethodsWithCopies});
  v(c.floor, "floor", "Minimum factor of the normalized policy, before division by the mean",
    {.range = kFraction, .methods = kAdeptOnly});
  v(c.ema, "ema", "Share of the previous importance that an update keeps",
    {.range = kBelowOne, .fallback = method::default_ema_text(), .methods = kAdeptOnly});
  v(c.factors, "factors", "Additional factors for units, by name, with any policy");
  v(c.update_every, "update_every", "Interval between importance updates",
    {.unit = "steps", .range = kSteps, .methods = kAdeptOnly});
  v(c.probe_tokens, "probe_tokens",
    "Sample size of each importance update, split evenly among the sources of data.general",
    {.unit = "tokens", .range = {.min = 1, .max = 1e15}, .methods = kAdeptOnly});
}

template <typename Visitor>
void describe(Visitor& v, train::LoraOptions& c) {
  v(c.rank, "rank", "Rank of the adapters", {.range = {.min = 1, .max = 65536}});
  v(c.alpha, "alpha", "Scale of the adapters: their output is multiplied by alpha / rank",
    {.range = kPositive, .fallback = "2 * rank"});
  v(c.dropout, "dropout", "Dropout on the adapters' input during training", {.range = kBelowOne});
  v(c.target_modules, "target_modules",
    "Projections that get an adapter, such as [q_proj, v_proj]; [] selects all projections of the layers");
}

template <typename Visitor>
void describe(Visitor& v, train::TopKLayersOptions& c) {
  v(c.num_layers, "num_layers", "Number of last layers to train",
    {.unit = "layers", .range = {.min = 1, .max = 10000}});
}

template <typename Visitor>
void describe(Visitor& v, eval::EvalOptions& c) {
  v(c.batch_size, "batch_size", "Batch size of the evaluation", {.unit = "sequences", .range = kSequences});
  v(c.packed, "packed", "Score packed sequences, as in training, instead of single documents");
  v(c.stride, "stride", "Stride between the windows of a long document; 0 equals seq_len (no overlap)",
    {.unit = "tokens", .range = {.min = 0, .max = 1 << 20}});
  v(c.max_tokens, "max_tokens", "Sample size per dataset, the same before and after training; 0 uses all",
    {.unit = "tokens", .range = kTokens});
  v(c.copies_tokens, "copies_tokens",
    "Sample size per dataset for measuring the loss without each copy after training; 0 skips the measurement",
    {.unit = "tokens", .range = kTokens, .decides = decides::kCopies, .methods = kMethodsWithCopies});
}

template <typename Visitor>
void describe(Visitor& v, dist::DistOptions& c) {
  v(c.timeout, "timeout",
    "How long a process waits for another one that hangs or is slow, before all end with an error that names it",
    {.unit = "seconds", .range = {.min = 1, .max = 1e6}});
  v(c.deterministic, "deterministic",
    "Add gradients in the order of micro-batches, so that any number of processes gives the same bits as one. Without "
    "it, results differ by rounding. Needs more communication");
  v(c.shard_base, "shard_base",
    "Divide the frozen layers (with full and replay all layers, with their gradients) over the processes: each holds "
    "its part, and a layer is gathered before it is used, in the forward and in the backward pass. For models that do "
    "not fit on one device. Needs more communication");
}

template <typename Visitor>
void describe(Visitor& v, RunConfig& c) {
  v(c.model, "model", "Model directory, or a Hugging Face Hub id in the local cache",
    {.required = true, .decides = decides::kContents});
  v(c.output_dir, "output_dir", "Run directory for checkpoints, logs, results and the exported model",
    {.required = true, .decides = decides::kNothing});
  v(c.method, "method",
    "Training method. adept: identity copies, at rates that depend on importance; llama_pro: identity copies at one "
    "rate; full: all parameters; replay: all parameters, with general text mixed in; lora: low-rank adapters; "
    "top_k_layers: the last layers",
    {.decides = decides::kTraining});
  v(c.keep_expanded, "keep_expanded", "Keep the expanded model, as before training, in output_dir/expanded",
    {.decides = decides::kNothing, .methods = kMethodsWithCopies});
  v(c.seed, "seed", "Random seed of the data order and of sampling",
    {.range = {.min = 0, .max = 4294967295}, .decides = decides::kTraining});
  v(c.compute.dtype, "dtype",
    "Compute dtype. auto: bf16 where the processor or GPU multiplies it natively, else fp32. Trained weights and "
    "optimizer moments are always fp32",
    {.decides = decides::kProbe | decides::kTraining | decides::kEvaluation | decides::kCopies});
  v(c.export_dtype, "export_dtype", "Dtype of every tensor of the exported model; auto keeps the dtypes of the base",
    {.decides = decides::kEnd});
  v(c.compute.device, "device", "Device to compute on", {.decides = decides::kNothing});
  v(c.compute.threads, "threads", "Number of CPU threads; 0 uses all physical cores that the process may use",
    {.unit = "threads", .range = {.min = 0, .max = 1024}, .decides = decides::kNothing});
  v(c.compute.kernels, "kernels", "fused: custom kernels; reference: plain PyTorch operations, for comparison",
    {.decides = decides::kNothing});
  v(c.seq_len, "seq_len", "Maximum sequence length in training, probe and evaluation",
    {.unit = "tokens",
     .range = {.min = 2, .max = 1 << 20},
     .decides = decides::kProbe | decides::kTraining | decides::kEvaluation | decides::kCopies});
  v(c.data, "data", "Texts", {.decides = decides::kContents});
  v(c.probe, "probe", "Stage 1, step 1: layer importance", {.decides = decides::kProbe, .methods = kAdeptOnly});
  v(c.expand, "expand", "Stage 1, step 2: which layers are copied",
    {.decides = decides::kExpansion, .methods = kMethodsWithCopies});
  v(c.train, "train", "Stage 2: training", {.decides = decides::kTraining});
  v(c.unit_lr, "unit_lr", "Stage 2: learning rate of each unit", {.decides = decides::kTraining});
  v(c.lora, "lora", "Low-rank adapters", {.decides = decides::kTraining, .methods = bit_of(train::Method::kLora)});
  v(c.top_k_layers, "top_k_layers", "Training of the last layers",
    {.decides = decides::kTraining, .methods = bit_of(train::Method::kTopKLayers)});
  v(c.eval, "eval", "Evaluation on held-out text", {.decides = decides::kEvaluation | decides::kCopies});
  v(c.dist, "dist", "Several processes (torchrun, srun, --nproc)", {.decides = decides::kNothing});
}

}  // namespace adept::config
