// The recipe: what `moraine train` is told, parsed from YAML plus overrides (docs/recipe.md lists the keys).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "config/choices.h"

namespace moraine {

struct ModelConfigKeys {
  std::string path;
  DtypeChoice dtype = DtypeChoice::kAuto;
  BaseFormat base_format = BaseFormat::kStored;
};

// PEFT's target_modules / exclude_modules: a list of names, or one regular expression (a single string), or all-linear.
struct ModuleSelection {
  bool all_linear = false;
  std::optional<std::string> regex;
  std::vector<std::string> names;
  bool empty() const { return !all_linear && !regex && names.empty(); }
};

// Values by patterns over names, in the order in which they are written: the first pattern that matches counts.
template <typename T>
using PatternMap = std::vector<std::pair<std::string, T>>;

struct AdapterConfig {
  int64_t r = 8;
  std::optional<int64_t> expert_r;  // none: r
  double lora_alpha = 16;
  bool use_rslora = false;
  PatternMap<int64_t> rank_pattern;
  PatternMap<double> alpha_pattern;
  double lora_dropout = 0;
  ModuleSelection target_modules{.all_linear = true, .regex = {}, .names = {}};
  ModuleSelection exclude_modules;
  std::vector<int64_t> layers_to_transform;  // empty: all
  std::vector<std::string> target_parameters{"mlp.experts.gate_up_proj", "mlp.experts.down_proj"};
  ExpertFactors experts = ExpertFactors::kEach;
  std::string init_from;  // empty = none
  uint64_t seed = 0;
  // Keys the user wrote (those omitted follow init_from), e.g. "r".
  std::vector<std::string> given;
};

struct DataConfig {
  std::vector<std::string> train, eval;
  DataFormatChoice format = DataFormatChoice::kAuto;
  std::string chat_template = "auto";  // key: template
  std::string template_name;           // empty: by transformers' rule
  Json template_options = Json::object();
  bool allow_special_in_content = false;
  // Values for {{NAME}} placeholders in chats, key: variables.
  Json variables = Json::object();
  int64_t max_length = 2048;
  Truncation truncation = Truncation::kError;
  bool packing = false;
  bool shuffle = true;
  LossOn loss_on = LossOn::kAssistant;
  Turns turns = Turns::kTogether;
  OnBadRows on_bad_rows = OnBadRows::kError;
};

// An amount of memory; a recipe writes "20GiB".
struct ByteSize {
  uint64_t bytes = 0;
};

struct MeshConfig {
  static constexpr int64_t kAuto = 0;
  int64_t ep = 1;  // kAuto: decided before the run begins, and with it what of fsdp and replicate is auto
  std::optional<int64_t> fsdp, replicate;  // nullopt = auto
  // Memory a rank may give to weights that are sharded or offloaded, gathered or copied once and then kept.
  ByteSize resident;
  Offload offload = Offload::kNone;
};

struct LoadConfig {
  LoadMode mode = LoadMode::kDirect;
  Transport node_transport = Transport::kAuto;
  Verify verify = Verify::kFull;
};

// train.micro_batch_tokens.
struct MicroBatchTokens {
  enum class Kind {
    kNone,    // micro-batches are so many rows
    kAuto,    // as many tokens as the plan says that fit
    kTokens,  // `tokens`
  };
  Kind kind = Kind::kNone;
  int64_t tokens = 0;
};

struct TrainConfig {
  std::optional<int64_t> steps;
  std::optional<double> epochs;  // neither given: 1 epoch
  std::optional<int64_t> stop_after;
  std::optional<int64_t> batch_size;  // sequences per step, over all ranks; default: the number of ranks
  // Rows, or tokens, per rank and pass; neither given: one row.
  std::optional<int64_t> micro_batch_size;
  MicroBatchTokens micro_batch_tokens;
  double learning_rate = 1e-4;
  double learning_rate_b_ratio = 1;
  PatternMap<double> learning_rate_pattern;
  Scheduler scheduler = Scheduler::kCosine;
  int64_t warmup_steps = 0;
  std::array<double, 2> betas{0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0;
  double max_grad_norm = 1.0;
  uint64_t seed = 0;
  Recompute recompute = Recompute::kFull;
  bool deterministic = false;
  double aux_loss_coef = 0;
  int64_t eval_every = 0;  // steps between evaluations on data.eval; 0: at the end only
};

// Which snapshot a run starts from.
struct ResumeFrom {
  enum class Kind {
    kAuto,    // the newest one in save.dir, if there is one
    kNever,   // none, and save.dir must be unused
    kFolder,  // the one in `folder`, a snapshot's or a run's
  };
  Kind kind = Kind::kAuto;
  std::string folder = {};
};

struct SaveConfig {
  std::string dir;
  int64_t every = 0;
  int64_t keep = 2;
  ResumeFrom resume;
  std::vector<SaveLayout> layouts{SaveLayout::kPeft};
};

struct DistConfig {
  double timeout_seconds = 7200;
  BackendChoice backend = BackendChoice::kAuto;
  DeviceChoice device = DeviceChoice::kAuto;
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
// The error about a key that there is not, with the nearest one that there is. `key` is "section.key" or a section
// alone.
Error unknown_recipe_key(const std::string& where, const std::string& key);
// A recipe of defaults plus overrides, for commands without a file.
Recipe recipe_from_overrides(const std::vector<std::string>& overrides);

// Throws an input error when a key is missing that `train` cannot do without: model.path, data.train, save.dir.
void require_for_training(const Recipe& recipe);

// Whether keys are left to be decided before a run begins: mesh.ep, mesh.offload or train.recompute.
bool leaves_choices(const Recipe& recipe);
// Throws an input error that names such a key, for commands that decide nothing.
void require_no_choices(const Recipe& recipe);

// Throws an input error for train.recompute: none unless every rank keeps all base weights that its layers use: tapes
// refer to weights, and gathered ones are given back after the layer.
void check_recompute(Recompute recompute, bool all_weights_resident);

// The whole recipe with every default filled in, as YAML that read_recipe accepts. Adapter keys that init_from decides
// are printed only where they were given.
std::string recipe_to_yaml(const Recipe& recipe);

// The same as ("section.key", value) pairs.
std::vector<std::pair<std::string, std::string>> recipe_entries(const Recipe& recipe);

}  // namespace moraine
