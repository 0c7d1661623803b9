#include "run/resume_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "adapter/make_adapter.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/fingerprint.h"
#include "formats/folder_parts.h"

namespace moraine {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

// Keys whose effect is compared instead of what is written for them, or that have none on the numbers. Every other key
// of the recipe is compared, those too that do not exist yet.
bool is_compared_as_written(const std::string& key) {
  for (const char* section : {"model.", "adapter.", "data.", "mesh.", "load.", "save.", "dist.", "log."})
    if (key.starts_with(section)) return key == "model.base_format" || key == "adapter.seed" || key == "data.shuffle";
  for (const char* other : {"steps", "epochs", "stop_after", "batch_size", "micro_batch_size", "micro_batch_tokens",
                            "recompute", "deterministic", "eval_every"})
    if (key == std::string("train.") + other) return false;
  return true;
}

// Keys that are compared as hashes, with the beginnings of the keys that may have changed them, the likeliest first.
const std::vector<std::pair<std::string, std::vector<std::string>>>& hashed_keys() {
  static const std::vector<std::pair<std::string, std::vector<std::string>>> keys{
      {"model.path", {"model.path"}},
      {"adapter.rank_pattern",
       {"adapter.rank_pattern", "adapter.alpha_pattern", "adapter.expert_r", "adapter.use_rslora", "adapter."}},
      {"adapter.target_modules", {"adapter.target", "adapter.exclude", "adapter.experts", "adapter."}},
      {"adapter.init_from", {"adapter.init_from"}},
      {"data.train", {"data.", "model.path"}},
  };
  return keys;
}

// Of every file a few pieces: another checkpoint of the same shapes has other bytes there.
std::string sample_weights(const CheckpointIndex& index) {
  constexpr uint64_t kPiece = 4096, kPieces = 8;
  std::string hashes;
  for (const SafetensorsHeader& header : index.files) {
    const File file(header.path);
    const uint64_t data = file.size() - header.data_offset;
    for (uint64_t piece = 0; piece < kPieces; ++piece) {
      const uint64_t offset = header.data_offset + data / kPieces * piece;
      hashes += hash_range(file, offset, std::min(kPiece, file.size() - offset));
    }
  }
  return hash_text(hashes);
}

// "{}", the default of adapter.rank_pattern, where all have config.r and config.lora_alpha / config.r.
std::string ranks_hash(const AdapterSelection& selection) {
  const LoraConfig& config = selection.config;
  std::string text;
  bool differ = false;
  for (const LoraModule& m : selection.targets.modules) {
    text += fmt::format("{} {} {}\n", module_name_in(selection.peft_class, m.name), m.r, m.scaling);
    differ |= m.r != config.r || m.scaling != config.lora_alpha / static_cast<double>(config.r);
  }
  return differ ? hash_text(text) : "{}";
}

std::string adapter_tensors_hash(const AdapterSelection& selection) {
  std::string text;
  for (const LoraModule& m : selection.targets.modules)
    text += fmt::format("{} {} {} {}{}\n", module_name_in(selection.peft_class, m.name), m.num_experts, m.in_features,
                        m.out_features, m.shared_a || m.shared_b ? " shared_outer" : "");
  return hash_text(text);
}

const std::string* find(const Values& values, const std::string& key) {
  const auto found = std::find_if(values.begin(), values.end(), [&](const auto& value) { return value.first == key; });
  return found == values.end() ? nullptr : &found->second;
}

std::string shown(const std::string* value) {
  if (!value) return "not there";
  return value->size() > 100 ? value->substr(0, 100) + "…" : *value;
}

Error difference(const std::string& key, const std::string* now, const std::string* then, const std::string& snapshot,
                 const std::string& hint) {
  return input_error(key, fmt::format("is {} here, but {} in the run of {}", shown(now), shown(then), snapshot), hint);
}

constexpr const char* kHint = "a run goes on as it began: set it back, or begin anew in another save.dir";

// A hash differs: the written key that did it, if one did.
Error explained(const std::string& key, const std::vector<std::string>& beginnings, const RunFacts& now,
                const RunFacts& then, const std::string& snapshot) {
  for (const std::string& beginning : beginnings) {
    for (const auto& [written, value] : now.recipe) {
      const std::string* before = find(then.recipe, written);
      if (!written.starts_with(beginning) || written == "data.eval" || (before && *before == value)) continue;
      return difference(written, &value, before, snapshot, kHint);
    }
  }
  return input_error(
      key,
      fmt::format("is the same, but what it names has changed since the run of {} (hash {} here, {} there)", snapshot,
                  shown(find(now.compared, key)), shown(find(then.compared, key))),
      kHint);
}

}  // namespace

RunFacts run_facts(const Recipe& recipe, const RunShape& shape) {
  RunFacts facts;
  facts.recipe = recipe_entries(recipe);
  auto add = [&](const std::string& key, std::string value) { facts.compared.emplace_back(key, std::move(value)); };
  const CheckpointHeaders& headers = shape.checkpoint.headers;
  const AdapterSelection adapter = select_adapter(shape.checkpoint.layout(), recipe.adapter, recipe.model.path);
  add("model.path", hash_text(fingerprint(headers) + sample_weights(headers.index)));
  add("model.dtype", shape.checkpoint.shape().dtype == DType::kBF16 ? "bfloat16" : "float32");
  add("adapter.r", fmt::format("{}", adapter.config.r));
  add("adapter.lora_alpha", fmt::format("{}", adapter.config.lora_alpha));
  add("adapter.lora_dropout", fmt::format("{}", adapter.config.lora_dropout));
  add("adapter.rank_pattern", ranks_hash(adapter));
  add("adapter.target_modules", adapter_tensors_hash(adapter));
  const std::filesystem::path init_from = recipe.adapter.init_from;
  add("adapter.init_from",
      init_from.empty() ? "null" : hash_file(File(find_in_folder(init_from, FolderPart::kAdapterWeights))));
  add("data.train", hash_rows(shape.training));
  add(recipe.train.steps ? "train.steps" : "train.epochs", fmt::format("{} steps", shape.steps));
  add("train.batch_size", fmt::format("{}", shape.batch_size));
  for (const auto& [key, value] : facts.recipe)
    if (is_compared_as_written(key)) add(key, value);
  return facts;
}

std::optional<Error> first_difference(const RunFacts& now, const RunFacts& then, const std::string& snapshot) {
  auto steps_key = [](const Values& values) {
    return std::string(find(values, "train.steps") ? "train.steps" : "train.epochs");
  };
  // A key that is younger than the snapshot had its default.
  static const Values defaults = recipe_entries(Recipe{});
  for (const auto& [key, value] : now.compared) {
    const bool is_steps = key == steps_key(now.compared);
    const std::string* before = find(then.compared, is_steps ? steps_key(then.compared) : key);
    if (!before && !find(then.recipe, key)) before = find(defaults, key);
    if (before && *before == value) continue;
    const auto hashed =
        std::find_if(hashed_keys().begin(), hashed_keys().end(), [&](const auto& h) { return h.first == key; });
    if (hashed != hashed_keys().end()) return explained(key, hashed->second, now, then, snapshot);
    const bool follows_world = key == "train.batch_size" && before && shown(find(now.recipe, key)) == "null";
    return difference(key, &value, before, snapshot,
                      follows_world
                          ? "it follows the number of ranks where it is not written: set train.batch_size=" + *before
                          : kHint);
  }
  return std::nullopt;
}

void warn_of_changes_without_effect(const RunFacts& now, const RunFacts& then, const std::string& folder) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : now.recipe) {
    const std::string* before = find(then.recipe, key);
    const bool follows_start =
        key.starts_with("save.") || key.starts_with("dist.") || key.starts_with("mesh.") || key.starts_with("load.");
    if (before && *before != value && !follows_start) keys.push_back(key);
  }
  if (keys.empty()) return;
  log_warning(fmt::format("{}: the run is finished, so what is written otherwise now has no effect: {}", folder,
                          join_words(keys)));
}

OrderedJson RunFacts::to_json() const {
  OrderedJson json{{"compared", OrderedJson::object()}, {"recipe", OrderedJson::object()}};
  for (const auto& [key, value] : compared) json["compared"][key] = value;
  for (const auto& [key, value] : recipe) json["recipe"][key] = value;
  return json;
}

RunFacts RunFacts::from_json(const OrderedJson& json) {
  RunFacts facts;
  for (const auto& [key, value] : json.at("compared").items())
    facts.compared.emplace_back(key, value.get<std::string>());
  for (const auto& [key, value] : json.at("recipe").items()) facts.recipe.emplace_back(key, value.get<std::string>());
  return facts;
}

}  // namespace moraine
