// Every key of a recipe, in the order in which it is printed, with what its value may be and what it means. Reading,
// printing, the list of known keys, `moraine recipe` and docs/recipe.md all go through this one list.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "config/recipe.h"

namespace moraine {

struct AnyValue {};   // whatever fits the field's type
struct PathValue {};  // a path, or a list of them: ~ is the home folder (expand_home)
struct TextMap {};    // a map whose values are texts
struct Modules {      // names of modules, or one regular expression
  bool or_all_linear;
};
// least <= value <= most.
struct Whole {
  int64_t least;
  int64_t most = int64_t{1} << 40;
  bool or_auto = false;  // the word auto leaves the field empty, or sets one that cannot be to kAutoNumber
};
inline constexpr int64_t kAutoNumber = MeshConfig::kAuto;
// least <= value < below, without least itself when `above_least`.
struct Real {
  double least;
  double below = std::numeric_limits<double>::infinity();
  bool above_least = false;
};

// Calls visit("section.key", field, rule, doc) for every key; `doc` is one sentence or two for a user, on one line. `R`
// is Recipe or const Recipe.
template <typename R, typename Visit>
void visit_recipe(R& recipe, Visit&& visit) {
  constexpr int64_t kLargestMesh = int64_t{1} << 20;  // so that products of axes fit
  constexpr int64_t kLargestBatch = int64_t{1} << 20,
                    kLongest = int64_t{1} << 26;  // so that tokens of a world's step fit
  const Real positive{0, std::numeric_limits<double>::infinity(), true};
  const Real not_negative{0};

  visit("model.path", recipe.model.path, PathValue{},
        "The checkpoint to fine-tune: a folder with config.json, tokenizer.json and safetensors files.");
  visit("model.dtype", recipe.model.dtype, AnyValue{},
        "Dtype of the computation and of weights that are not quantised; auto takes what config.json says.");
  visit("model.base_format", recipe.model.base_format, AnyValue{},
        "How quantised weights are held: stored keeps FP8 and FP4 and dequantises when they are used, bfloat16 "
        "dequantises while they are "
        "loaded.");

  const Whole rank{1, 1 << 20};
  visit("adapter.r", recipe.adapter.r, rank, "Rank of the LoRA factors.");
  visit("adapter.expert_r", recipe.adapter.expert_r, rank,
        "Rank of the experts' factors where it is not r, for example r divided by the experts of a token; lora_alpha "
        "stays what it is, so their product is scaled by lora_alpha / expert_r. Written as rank_pattern, behind its "
        "keys.");
  visit("adapter.lora_alpha", recipe.adapter.lora_alpha, positive,
        "The adapter's product is scaled by lora_alpha / r.");
  visit("adapter.use_rslora", recipe.adapter.use_rslora, AnyValue{},
        "Scale by lora_alpha / √r instead (rank-stabilised LoRA).");
  visit("adapter.rank_pattern", recipe.adapter.rank_pattern, rank,
        "Other ranks by regular expressions over the ends of names, PEFT's rules: the first one counts that matches a "
        "whole name or what follows one of its dots, for example {o_proj: 4, 'layers\\.0\\..*': 16}.");
  visit("adapter.alpha_pattern", recipe.adapter.alpha_pattern, positive, "Other values of lora_alpha, likewise.");
  visit("adapter.lora_dropout", recipe.adapter.lora_dropout, Real{0, 1},
        "The part of a linear layer's input that is left out on its way to the adapter, other elements in each step; "
        "not with adapters of experts.");
  visit("adapter.target_modules", recipe.adapter.target_modules, Modules{true},
        "Linear layers that get an adapter: all-linear, a list of names, or one regular expression over full names, by "
        "PEFT's rules; by name also embed_tokens and lm_head.");
  visit("adapter.exclude_modules", recipe.adapter.exclude_modules, Modules{false},
        "Linear layers to leave out: a list of names or one regular expression.");
  visit("adapter.layers_to_transform", recipe.adapter.layers_to_transform, Whole{0},
        "Layers whose linear layers get an adapter, counted from 0; [] is all. Experts are what target_parameters "
        "says, and "
        "a regular expression in target_modules says its layers itself.");
  visit("adapter.target_parameters", recipe.adapter.target_parameters, AnyValue{},
        "Expert weights that get an adapter per expert, and with mlp.gate.weight the routers; [] trains the linear "
        "layers "
        "alone.");
  visit("adapter.experts", recipe.adapter.experts, AnyValue{},
        "Which factors the experts of a layer have: each its own, or shared_outer, where lora_A of gate_up_proj and "
        "lora_B of down_proj are one for all of them.");
  visit("adapter.init_from", recipe.adapter.init_from, PathValue{},
        "Folder of a PEFT adapter to start from; adapter keys that are not written then follow that adapter.");
  visit("adapter.seed", recipe.adapter.seed, AnyValue{}, "Seed of the adapter's initial values.");

  visit("data.train", recipe.data.train, PathValue{}, "Files to train on: paths, folders and patterns, also gzipped.");
  visit("data.eval", recipe.data.eval, PathValue{},
        "Held-out files: their loss is measured after the last step and every train.eval_every steps.");
  visit("data.format", recipe.data.format, AnyValue{},
        "What a row is; auto goes by the file's extension, then by the keys of its first row.");
  visit("data.template", recipe.data.chat_template, AnyValue{},
        "Chat format: auto (the checkpoint's own template), a file FILE.jinja, or a name; `moraine tokenize --help` "
        "lists them.");
  visit("data.template_name", recipe.data.template_name, AnyValue{},
        "Which of a checkpoint's named templates; without it tool_use for rows with tools, where there is one, and "
        "default for the others.");
  visit("data.template_options", recipe.data.template_options, AnyValue{},
        "Options of the chat format, or variables of the template, for example {enable_thinking: false}.");
  visit("data.variables", recipe.data.variables, TextMap{},
        "Texts for {{NAME}} placeholders in chats, for example {NAME: Ada}.");
  visit("data.max_length", recipe.data.max_length, Whole{1, kLongest}, "Longest row, in tokens.");
  visit("data.truncation", recipe.data.truncation, AnyValue{},
        "What becomes of longer rows: error refuses them, right cuts off the end, left the beginning, drop leaves them "
        "out.");
  visit("data.packing", recipe.data.packing, AnyValue{},
        "Put several short rows into one row of up to max_length tokens; they do not see each other.");
  visit("data.shuffle", recipe.data.shuffle, AnyValue{}, "Shuffle the rows in each epoch, by train.seed.");
  visit("data.loss_on", recipe.data.loss_on, AnyValue{},
        "Which tokens are trained: every assistant turn, the last one of a conversation, or all tokens.");
  visit("data.turns", recipe.data.turns, AnyValue{},
        "together: a conversation is one row; each: a row for each assistant turn, rendered as the last of its "
        "conversation, as it is served.");
  visit("data.allow_special_in_content", recipe.data.allow_special_in_content, AnyValue{},
        "Encode special tokens that a user's or tool's text spells out as these tokens, not as plain text.");
  visit("data.on_bad_rows", recipe.data.on_bad_rows, AnyValue{},
        "What to do about rows that cannot be used: error names them and ends, skip leaves them out with a count.");

  visit("mesh.ep", recipe.mesh.ep, Whole{1, kLargestMesh, true},
        "Ranks that the experts are split over; with auto `train` takes the mesh whose step is predicted to be the "
        "fastest "
        "of those that fit, as `plan --device` lists them.");
  visit("mesh.fsdp", recipe.mesh.fsdp, Whole{1, kLargestMesh, true},
        "Ranks that the other base weights are sharded over; auto is all ranks of a replica, or with mesh.ep auto what "
        "is fastest.");
  visit("mesh.replicate", recipe.mesh.replicate, Whole{1, kLargestMesh, true},
        "Whole copies of the base weights, each spread over its own share of the ranks; auto is 1, or with mesh.ep "
        "auto what is fastest.");
  visit("mesh.resident", recipe.mesh.resident, AnyValue{},
        "Memory per rank for sharded or offloaded layers that are gathered or copied once and then kept, for example "
        "20GiB.");
  visit("mesh.offload", recipe.mesh.offload, AnyValue{},
        "Base weights that stay in the host's memory and are copied to the device a layer ahead: none, the experts or "
        "all. mesh.resident says how much of them the device keeps. auto offloads where nothing else fits, and keeps "
        "what the memory leaves.");

  visit("load.mode", recipe.load.mode, AnyValue{},
        "Who reads the checkpoint: direct every rank its own bytes, node one rank per node, rank0 rank 0 for all "
        "others.");
  visit("load.node_transport", recipe.load.node_transport, AnyValue{},
        "How bytes travel within a node in load.mode node: shm shared memory, collective or p2p messages; auto takes "
        "shm where it works.");
  visit("load.verify", recipe.load.verify, AnyValue{},
        "Proof after loading: full compares every byte with the files, placement the beginning of every tensor.");

  visit("train.steps", recipe.train.steps, Whole{1}, "Optimizer steps; give this or train.epochs.");
  visit("train.epochs", recipe.train.epochs, positive,
        "Passes over the rows, fractions allowed; 1 when neither this nor train.steps is given.");
  visit("train.stop_after", recipe.train.stop_after, Whole{1},
        "End after this many steps with a snapshot, as if interrupted; schedules still follow the whole run.");
  visit("train.batch_size", recipe.train.batch_size, Whole{1, kLargestBatch},
        "Rows per step over all ranks; by default the number of ranks.");
  visit("train.micro_batch_size", recipe.train.micro_batch_size, Whole{1, kLargestBatch},
        "Rows per rank and pass; a step sums as many passes as it needs. 1 when neither this nor "
        "train.micro_batch_tokens is given.");
  visit("train.micro_batch_tokens", recipe.train.micro_batch_tokens, Whole{1, kLongest, true},
        "Tokens per rank and pass instead: neighbouring rows share a pass up to so many, longer rows have one of their "
        "own. auto takes what the plan says that a GPU holds, and data.max_length where the memory is not known.");
  visit("train.learning_rate", recipe.train.learning_rate, not_negative, "Highest learning rate of AdamW.");
  visit("train.learning_rate_b_ratio", recipe.train.learning_rate_b_ratio, positive,
        "LoRA+: the learning rate of the factors B divided by that of the factors A, which is train.learning_rate.");
  visit("train.learning_rate_pattern", recipe.train.learning_rate_pattern, not_negative,
        "Factors on the learning rate by regular expressions over the ends of names, matched as adapter.rank_pattern "
        "is.");
  visit("train.scheduler", recipe.train.scheduler, AnyValue{}, "Course of the learning rate after the warm-up.");
  visit("train.warmup_steps", recipe.train.warmup_steps, Whole{0}, "Steps over which the learning rate rises from 0.");
  visit("train.betas", recipe.train.betas, Real{0, 1}, "AdamW's decay rates of the two moments.");
  visit("train.eps", recipe.train.eps, not_negative, "AdamW's epsilon.");
  visit("train.weight_decay", recipe.train.weight_decay, not_negative, "AdamW's decoupled weight decay.");
  visit("train.max_grad_norm", recipe.train.max_grad_norm, not_negative,
        "Gradients are scaled down to this norm; 0 turns clipping off.");
  visit("train.seed", recipe.train.seed, AnyValue{}, "Seed of the order of rows and of adapter.lora_dropout.");
  visit("train.recompute", recipe.train.recompute, AnyValue{},
        "full keeps only the inputs of layers and runs them again in the backward pass; none keeps all activations: "
        "faster, more memory; auto is none where it fits.");
  visit("train.deterministic", recipe.train.deterministic, AnyValue{},
        "On CUDA take kernels that give the same bits in every run, and refuse those that cannot: slower. The CPU's "
        "always do.");
  visit("train.aux_loss_coef", recipe.train.aux_loss_coef, not_negative,
        "Weight of the routers' load-balancing loss; 0 turns it off.");
  visit("train.eval_every", recipe.train.eval_every, Whole{0},
        "Steps between evaluations on data.eval; 0 evaluates after the last step only.");

  visit("save.dir", recipe.save.dir, PathValue{}, "The run's folder: adapter, snapshots, metrics, report.");
  visit("save.every", recipe.save.every, Whole{0}, "Steps between snapshots; 0 writes none.");
  visit("save.keep", recipe.save.keep, Whole{1}, "How many of the newest snapshots are kept.");
  visit("save.resume", recipe.save.resume, PathValue{},
        "auto continues from the newest snapshot in save.dir, never refuses a used save.dir, a folder starts from its "
        "snapshot.");
  visit(
      "save.layouts", recipe.save.layouts, AnyValue{},
      "Layouts in which the end of a run writes the adapter: peft, always, into adapter/, others beside it, vllm into "
      "adapter-vllm/; docs/adapters.md says who reads which.");

  visit("dist.timeout_seconds", recipe.dist.timeout_seconds, positive,
        "Longest wait of one rank for another before the run ends with an error.");
  visit("dist.backend", recipe.dist.backend, AnyValue{},
        "Library for messages between ranks; auto is nccl for CUDA devices, else gloo.");
  visit("dist.device", recipe.dist.device, AnyValue{},
        "Where ranks compute; auto is CUDA where there is a device, else the CPU.");

  visit("log.every", recipe.log.every, Whole{1}, "Steps between lines on the terminal; metrics.jsonl has every step.");
  visit("log.tensorboard", recipe.log.tensorboard, AnyValue{},
        "Also write TensorBoard event files into the run's folder.");
}

}  // namespace moraine
