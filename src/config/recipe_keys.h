// Every key of a recipe, in the order in which it is printed, with what its value may be. Reading, printing and the
// list of known keys all go through this one list.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "config/recipe.h"

namespace moraine {

struct AnyValue {};  // whatever fits the field's type
struct PathValue {};  // a path, or a list of them: ~ is the home folder (expand_home)
// One of a list of words.
struct OneOf {
  std::vector<std::string> choices;
};
// least <= value <= most.
struct Whole {
  int64_t least;
  int64_t most = int64_t{1} << 40;
  bool or_auto = false;  // the word auto leaves the field empty
};
// least <= value < below, without least itself when `above_least`.
struct Real {
  double least;
  double below = std::numeric_limits<double>::infinity();
  bool above_least = false;
};

// Calls visit("section.key", field, rule) for every key. `R` is Recipe or const Recipe.
template <typename R, typename Visit>
void visit_recipe(R& recipe, Visit&& visit) {
  constexpr int64_t kLargestMesh = int64_t{1} << 20;  // so that products of axes fit
  constexpr int64_t kLargestBatch = int64_t{1} << 20, kLongest = int64_t{1} << 26;  // so that tokens of a world's step fit
  const Real positive{0, std::numeric_limits<double>::infinity(), true};
  const Real not_negative{0};

  visit("model.path", recipe.model.path, PathValue{});
  visit("model.dtype", recipe.model.dtype, OneOf{{"auto", "bfloat16", "float32"}});
  visit("model.base_format", recipe.model.base_format, OneOf{{"stored", "bfloat16"}});

  visit("adapter.r", recipe.adapter.r, Whole{1, 1 << 20});
  visit("adapter.lora_alpha", recipe.adapter.lora_alpha, positive);
  visit("adapter.lora_dropout", recipe.adapter.lora_dropout, Real{0, 1});
  visit("adapter.target_modules", recipe.adapter.target_modules, AnyValue{});
  visit("adapter.exclude_modules", recipe.adapter.exclude_modules, AnyValue{});
  visit("adapter.target_parameters", recipe.adapter.target_parameters, AnyValue{});
  visit("adapter.init_from", recipe.adapter.init_from, PathValue{});
  visit("adapter.seed", recipe.adapter.seed, AnyValue{});

  visit("data.train", recipe.data.train, PathValue{});
  visit("data.eval", recipe.data.eval, PathValue{});
  visit("data.format", recipe.data.format, OneOf{{"auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "tokens"}});
  visit("data.template", recipe.data.chat_template, AnyValue{});
  visit("data.template_options", recipe.data.template_options, AnyValue{});
  visit("data.variables", recipe.data.variables, AnyValue{});
  visit("data.max_length", recipe.data.max_length, Whole{1, kLongest});
  visit("data.truncation", recipe.data.truncation, OneOf{{"error", "right", "left", "drop"}});
  visit("data.packing", recipe.data.packing, AnyValue{});
  visit("data.shuffle", recipe.data.shuffle, AnyValue{});
  visit("data.loss_on", recipe.data.loss_on, OneOf{{"assistant", "last", "all"}});
  visit("data.on_bad_rows", recipe.data.on_bad_rows, OneOf{{"error", "skip"}});

  visit("mesh.ep", recipe.mesh.ep, Whole{1, kLargestMesh});
  visit("mesh.fsdp", recipe.mesh.fsdp, Whole{1, kLargestMesh, true});
  visit("mesh.replicate", recipe.mesh.replicate, Whole{1, kLargestMesh, true});
  visit("mesh.resident", recipe.mesh.resident, AnyValue{});

  visit("load.mode", recipe.load.mode, OneOf{{"direct", "node", "rank0"}});
  visit("load.node_transport", recipe.load.node_transport, OneOf{{"auto", "collective", "p2p", "shm"}});
  visit("load.verify", recipe.load.verify, OneOf{{"full", "placement", "off"}});

  visit("train.steps", recipe.train.steps, Whole{1});
  visit("train.epochs", recipe.train.epochs, positive);
  visit("train.stop_after", recipe.train.stop_after, Whole{1});
  visit("train.batch_size", recipe.train.batch_size, Whole{1, kLargestBatch});
  visit("train.micro_batch_size", recipe.train.micro_batch_size, Whole{1, kLargestBatch});
  visit("train.learning_rate", recipe.train.learning_rate, not_negative);
  visit("train.scheduler", recipe.train.scheduler, OneOf{{"cosine", "linear", "constant"}});
  visit("train.warmup_steps", recipe.train.warmup_steps, Whole{0});
  visit("train.betas", recipe.train.betas, Real{0, 1});
  visit("train.eps", recipe.train.eps, not_negative);
  visit("train.weight_decay", recipe.train.weight_decay, not_negative);
  visit("train.max_grad_norm", recipe.train.max_grad_norm, not_negative);
  visit("train.seed", recipe.train.seed, AnyValue{});
  visit("train.recompute", recipe.train.recompute, OneOf{{"full", "none"}});
  visit("train.aux_loss_coef", recipe.train.aux_loss_coef, not_negative);
  visit("train.eval_every", recipe.train.eval_every, Whole{0});

  visit("save.dir", recipe.save.dir, PathValue{});
  visit("save.every", recipe.save.every, Whole{0});
  visit("save.keep", recipe.save.keep, Whole{1});
  visit("save.resume", recipe.save.resume, PathValue{});

  visit("dist.timeout_seconds", recipe.dist.timeout_seconds, positive);
  visit("dist.backend", recipe.dist.backend, OneOf{{"auto", "gloo", "nccl"}});
  visit("dist.device", recipe.dist.device, OneOf{{"auto", "cpu", "cuda"}});

  visit("log.every", recipe.log.every, Whole{1});
  visit("log.tensorboard", recipe.log.tensorboard, AnyValue{});
}

}  // namespace moraine
