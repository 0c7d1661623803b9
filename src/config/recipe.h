// The recipe: what `moraine train` is told, parsed from YAML plus overrides (DESIGN.md, "Recipe").
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"

namespace moraine {

struct ModelConfigKeys {
  std::string path;
  std::string dtype = "auto";          // auto | bfloat16 | float32
  std::string base_format = "stored";  // stored | bfloat16
};

// PEFT's target_modules / exclude_modules: a list of names, or one regular expression (a single string), or all-linear.
struct ModuleSelection {
  bool all_linear = false;
  std::optional<std::string> regex;
  std::vector<std::string> names;
  bool empty() const { return !all_linear && !regex && names.empty(); }
};

struct AdapterConfig {
  int64_t r = 8;
  double lora_alpha = 16;
  double lora_dropout = 0;
  ModuleSelection target_modules{.all_linear = true, .regex = {}, .names = {}};
  ModuleSelection exclude_modules;
  std::vector<std::string> target_parameters{"mlp.experts.gate_up_proj", "mlp.experts.down_proj"};
  std::string init_from;  // empty = none
  uint64_t seed = 0;
  // Keys the user wrote (those omitted follow init_from), e.g. "r".
  std::vector<std::string> given;
};

struct DataConfig {
  std::vector<std::string> train, eval;
  std::string format = "auto";         // auto | messages | sharegpt | alpaca | prompt_completion | text | tokens
  std::string chat_template = "auto";  // key: template
  Json template_options = Json::object();
  // Values for {{NAME}} placeholders in chats, key: variables.
  Json variables = Json::object();
  int64_t max_length = 2048;
  std::string truncation = "error";  // error | right | left | drop
  bool packing = false;
  bool shuffle = true;
  std::string loss_on = "assistant";  // assistant | last | all
  std::string on_bad_rows = "error";  // error | skip
};

struct MeshConfig {
  int64_t ep = 1;
  std::optional<int64_t> fsdp, replicate;  // nullopt = auto
  std::string resident = "0";  // memory a rank may give to sharded weights that are gathered once and kept: "20GiB"
};

struct LoadConfig {
  std::string mode = "direct";          // direct | node | rank0
  std::string node_transport = "auto";  // auto | collective | p2p | shm
  std::string verify = "full";  // full | placement | off
};

struct TrainConfig {
  std::optional<int64_t> steps;
  std::optional<double> epochs;  // neither given: 1 epoch
  std::optional<int64_t> stop_after;
  std::optional<int64_t> batch_size;  // sequences a step over the whole world; default: world size
  int64_t micro_batch_size = 1;       // a rank
  double learning_rate = 1e-4;
  std::string scheduler = "cosine";  // cosine | linear | constant
  int64_t warmup_steps = 0;
  std::array<double, 2> betas{0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  double max_grad_norm = 1.0;
  uint64_t seed = 0;
  std::string recompute = "full";  // full | none
  double aux_loss_coef = 0;
  int64_t eval_every = 0;  // steps between evaluations on data.eval; 0: at the end only
};

struct SaveConfig {
  std::string dir;
  int64_t every = 0;
  int64_t keep = 2;
  std::string resume = "auto";  // auto | never | a folder
};

struct DistConfig {
  double timeout_seconds = 7200;
  std::string backend = "auto";  // auto | gloo | nccl
  std::string device = "auto";   // auto | cpu | cuda
};

struct LogConfig {
  int64_t every = 1;
  bool tensorboard = true;
};

struct Recipe {
  ModelConfigKeys model;
  AdapterConfig adapter;
  DataConfig data;
  MeshConfig mesh;
  LoadConfig load;
  TrainConfig train;
  SaveConfig save;
  DistConfig dist;
  LogConfig log;
};

// Parses `path` and applies `overrides` ("section.key=value", the value parsed as YAML) in order. Throws input errors:
// `RECIPE.yaml: unknown key 'trian' (did you mean 'train'?)`, wrong types and ranges by key, a choice that is not
// listed. null, in the file or an override, sets a key back to its default.
Recipe read_recipe(const std::string& path, const std::vector<std::string>& overrides);
// A recipe of defaults plus overrides, for commands without a file.
Recipe recipe_from_overrides(const std::vector<std::string>& overrides);

// Throws an input error when a key is missing that `train` cannot do without: model.path, data.train, save.dir.
void require_for_training(const Recipe& recipe);

// The whole recipe with every default filled in, as YAML that read_recipe accepts. Adapter keys that init_from decides
// are printed only where they were given.
std::string recipe_to_yaml(const Recipe& recipe);

// The same as ("section.key", value) pairs.
std::vector<std::pair<std::string, std::string>> recipe_entries(const Recipe& recipe);

}  // namespace moraine
