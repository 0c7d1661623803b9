#include "config/lora_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "config/hf_config.h"
#include "formats/folder_parts.h"

namespace moraine {
namespace {

constexpr const char* kPeftVersion = "0.21.0";
constexpr int64_t kMaxRank = 1 << 20;  // as adapter.r of a recipe

// Keys that are read here or that do not change what an adapter computes.
const std::set<std::string> kHarmlessKeys{
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "target_parameters", "peft_type", "bias",
    "base_model_name_or_path", "peft_version", "init_lora_weights", "task_type", "inference_mode", "revision",
    "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "auto_mapping",
    "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    // How the weights were initialised.
    "loftq_config", "eva_config", "corda_config", "lora_ga_config"};

bool is_off(const Json& value) {
  if (value.is_null() || value == false || value.empty()) return true;
  return value.is_string() && (value.get_ref<const std::string&>().empty() || value == "none");
}

void refuse_unsupported(const HfConfig& file) {
  const std::string& where = file.where();
  std::string peft_type = file.text("peft_type", "LORA");
  if (peft_type != "LORA") {
    throw input_error(where, fmt::format("peft_type {} is not supported", quote_text(peft_type)), "only LORA is");
  }
  for (const auto& [key, value] : file.json().items()) {
    if ((!kHarmlessKeys.contains(key) || key == "bias") && !is_off(value)) {
      throw input_error(
          where, fmt::format("key {} = {} is not supported", quote_text(key), quote_text(value.dump(-1, ' ', true))),
          key == "modules_to_save" ? kNoModulesToSave : "");
    }
  }
  // These take something out of the base weights and put it into A and B: on the plain base the adapter means another
  // model.
  if (auto init = file.json().find("init_lora_weights"); init != file.json().end() && init->is_string()) {
    const std::string& name = init->get_ref<const std::string&>();
    if (name.starts_with("pissa") || name == "olora" || name == "corda" || name == "loftq" || name == "lora_ga") {
      throw input_error(where, fmt::format("init_lora_weights {} is not supported", quote_text(name)),
                        "convert the adapter to plain LoRA with PEFT's path_initial_model_for_weight_conversion");
    }
  }
}

ModuleSelection read_selection(const HfConfig& file, const std::string& key) {
  ModuleSelection selection;
  if (!file.has(key)) return selection;
  if (file.json()[key].is_array()) {
    selection.names = file.texts(key);
  } else {
    std::string text = file.text(key, "");
    if (text == "all-linear") {
      selection.all_linear = true;
    } else if (!text.empty()) {
      selection.regex = text;
    }
  }
  return selection;
}

// "0.19.1", "0.19.1.dev0", "0.20.0@main" … -> its first three numbers; zeros where there are none.
std::array<int, 3> parse_version(const std::string& text) {
  std::array<int, 3> version{};
  const char* at = text.data();
  const char* end = at + text.size();
  for (int& part : version) {
    auto [next, error] = std::from_chars(at, end, part);
    if (error != std::errc()) break;
    at = next;
    if (at == end || *at != '.') break;
    ++at;
  }
  return version;
}

void check_r(const std::string& where, const std::string& key, int64_t r) {
  if (r < 1 || r > kMaxRank) throw input_error(where, fmt::format("key {} is {}, expected 1 to {}", key, r, kMaxRank));
}

void check_alpha(const std::string& where, const std::string& key, double alpha) {
  if (!(alpha > 0) || !std::isfinite(alpha))
    throw input_error(where, fmt::format("key {} is {}, expected a number above 0", key, alpha));
}

// The keys of an object in the order in which they are written: PEFT takes the first that matches.
std::vector<std::string> keys_of(const HfConfig& file, const std::string& key) {
  std::vector<std::string> keys;
  if (!file.has(key)) return keys;
  file.object(key);  // says so where it is none
  const OrderedJson ordered = parse_ordered_json(read_text_file(file.where()), file.where());
  for (const auto& [name, value] : ordered.at(key).items()) keys.push_back(name);
  return keys;
}

void read_patterns(const HfConfig& file, LoraConfig& config) {
  const auto named = [](const char* key, const std::string& name) {
    return fmt::format("'{}': {}", key, quote_text(name));
  };
  for (const std::string& name : keys_of(file, "rank_pattern")) {
    config.rank_pattern.emplace_back(name, file.object("rank_pattern").integer(name));
    check_r(file.where(), named("rank_pattern", name), config.rank_pattern.back().second);
  }
  for (const std::string& name : keys_of(file, "alpha_pattern")) {
    config.alpha_pattern.emplace_back(name, file.object("alpha_pattern").number(name));
    check_alpha(file.where(), named("alpha_pattern", name), config.alpha_pattern.back().second);
  }
}

// As in PEFT: of one layer or of several, for a list of names alone.
void read_layers(const HfConfig& file, LoraConfig& config) {
  constexpr const char* kKey = "layers_to_transform";
  const std::string& where = file.where();
  if (file.has("layers_pattern")) {
    const bool is_list = file.json()["layers_pattern"].is_array();
    const std::vector<std::string> patterns =
        is_list ? file.texts("layers_pattern") : std::vector{file.text("layers_pattern", "")};
    for (const std::string& pattern : patterns) {
      if (pattern != "layers" && (is_list || !pattern.empty()))
        throw input_error(where, fmt::format("key 'layers_pattern' is {}, which is not supported", quote_text(pattern)),
                          "the layers of these models are called layers: leave the key out");
    }
  }
  if (!file.has(kKey)) return;
  config.layers_to_transform = file.json()[kKey].is_array() ? file.integers(kKey) : std::vector{file.integer(kKey)};
  if (!config.layers_to_transform.empty() && (config.target_modules.regex || config.target_modules.all_linear))
    throw input_error(where, "layers_to_transform does not work together with a target_modules that is no list",
                      "say the layers in its pattern");
}

OrderedJson selection_to_json(const ModuleSelection& selection) {
  if (selection.all_linear) return "all-linear";
  if (selection.regex) return *selection.regex;
  return selection.names;
}

// As PEFT writes them.
OrderedJson number_to_json(double number) {
  const bool whole = number == std::floor(number) && std::abs(number) < 1e15;
  return whole ? OrderedJson(static_cast<int64_t>(number)) : OrderedJson(number);
}

OrderedJson pattern_to_json(const PatternMap<int64_t>& pattern) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [key, r] : pattern) json[key] = r;
  return json;
}

OrderedJson pattern_to_json(const PatternMap<double>& pattern) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [key, alpha] : pattern) json[key] = number_to_json(alpha);
  return json;
}

}  // namespace

bool has_swapped_experts(const std::string& peft_version) {
  const std::array<int, 3> version = parse_version(peft_version);
  return version >= std::array<int, 3>{0, 18, 0} && version < std::array<int, 3>{0, 19, 1};
}

LoraConfig read_lora_config(const std::filesystem::path& folder) {
  HfConfig file = HfConfig::read(find_in_folder(folder, FolderPart::kAdapterConfig));
  refuse_unsupported(file);
  const std::string& where = file.where();
  LoraConfig config;
  config.r = file.integer("r", 8);
  check_r(where, "'r'", config.r);
  config.lora_alpha = file.number("lora_alpha", 8);  // PEFT's default
  check_alpha(where, "'lora_alpha'", config.lora_alpha);
  config.use_rslora = file.boolean("use_rslora", false);
  read_patterns(file, config);
  config.ensure_weight_tying = file.boolean("ensure_weight_tying", false);
  config.lora_dropout = file.number("lora_dropout", 0);
  if (!(config.lora_dropout >= 0 && config.lora_dropout < 1)) {
    throw input_error(where,
                      fmt::format("key 'lora_dropout' is {}, expected at least 0 and below 1", config.lora_dropout));
  }
  config.target_modules = read_selection(file, "target_modules");
  read_layers(file, config);
  config.exclude_modules = read_selection(file, "exclude_modules");
  config.target_parameters = file.texts("target_parameters");
  config.base_model_name_or_path = file.text("base_model_name_or_path", "");
  config.peft_version = file.text("peft_version", "");

  if (config.target_modules.empty() && config.target_parameters.empty()) {
    throw input_error(where, "has neither target_modules nor target_parameters");
  }
  if (!config.target_parameters.empty()) {
    if (config.lora_dropout != 0) {
      throw input_error(where, "lora_dropout does not work together with target_parameters", "set lora_dropout to 0");
    }
    // Files without peft_version are older still.
    if (parse_version(config.peft_version) < std::array<int, 3>{0, 18, 0}) {
      throw input_error(where,
                        fmt::format("target_parameters of PEFT {} are stored in another layout",
                                    config.peft_version.empty() ? "before 0.18" : quote_text(config.peft_version)),
                        "load the adapter with that version, merge it into its model, or train it anew");
    }
  }
  return config;
}

std::string lora_config_to_json(const LoraConfig& config) {
  MORAINE_ASSERT(config.layers_to_transform.empty(), "a configuration that is written names its modules");
  const auto or_null = [](bool given, OrderedJson value) { return given ? std::move(value) : OrderedJson(nullptr); };
  // In the order of the alphabet, as PEFT writes them, except within a pattern.
  const OrderedJson json = {
      {"alpha_pattern", pattern_to_json(config.alpha_pattern)},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", config.base_model_name_or_path},
      {"bias", "none"},
      {"exclude_modules", or_null(!config.exclude_modules.empty(), selection_to_json(config.exclude_modules))},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layer_replication", nullptr},
      {"layers_pattern", nullptr},
      {"layers_to_transform", nullptr},
      {"lora_alpha", number_to_json(config.lora_alpha)},
      {"lora_bias", false},
      {"lora_dropout", config.lora_dropout},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"peft_version", config.peft_version.empty() ? kPeftVersion : config.peft_version},
      {"r", config.r},
      {"rank_pattern", pattern_to_json(config.rank_pattern)},
      {"revision", nullptr},
      {"target_modules", selection_to_json(config.target_modules)},
      {"target_parameters", or_null(!config.target_parameters.empty(), config.target_parameters)},
      {"task_type", "CAUSAL_LM"},
      {"trainable_token_indices", nullptr},
      {"use_dora", false},
      {"use_rslora", config.use_rslora},
  };
  return json.dump(2) + "\n";
}

}  // namespace moraine
