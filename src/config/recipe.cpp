#include "config/recipe.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "config/lora_config.h"
#include "config/recipe_keys.h"
#include "config/recipe_values.h"

namespace moraine {
namespace {

using Settings = std::map<std::string, Setting>;  // "section.key" -> what was written for it last

constexpr uint64_t kMaxRecipeBytes = 16 << 20;

const std::vector<std::string>& known_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> collected;
    const Recipe defaults;
    visit_recipe(defaults, [&](const char* key, const auto&, const auto&, const char*) { collected.push_back(key); });
    return collected;
  }();
  return keys;
}

std::string section_of(const std::string& key) { return key.substr(0, key.find('.')); }

bool is_known_section(const std::string& name) {
  return std::any_of(known_keys().begin(), known_keys().end(),
                     [&](const std::string& key) { return section_of(key) == name; });
}

// The one document of `text`; a null node when it is empty.
YAML::Node parse_yaml(const std::string& text, const std::string& where, bool name_line) {
  if (!is_utf8(text) || text.find('\0') != text.npos) throw input_error(where, "not UTF-8 text");
  try {
    std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() > 1) throw input_error(where, "holds more than one YAML document");
    return documents.empty() ? YAML::Node() : documents[0];
  } catch (const YAML::DeepRecursion&) {
    throw input_error(where, "malformed YAML: nested too deeply");
  } catch (const YAML::Exception& error) {
    std::string place =
        name_line ? fmt::format(" at line {}, column {}", error.mark.line + 1, error.mark.column + 1) : "";
    throw input_error(where, fmt::format("malformed YAML{}: {}", place, error.msg));
  }
}

// JSON is nearly a subset of what yaml-cpp reads: surrogate pairs in escapes are not. Such text is printed anew,
// without them.
std::string normalise_json(std::string text) {
  size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos || text[first] != '{') return text;
  try {
    return parse_ordered_json(text, "").dump();
  } catch (const Error&) {
    return text;  // YAML in braces, or an error that the YAML parser will name
  }
}

void set(Settings& settings, const std::string& key, const YAML::Node& node, const std::string& where) {
  if (node.IsNull()) {
    settings.erase(key);  // null is the default
  } else {
    settings.insert_or_assign(key, Setting{key, node, where});
  }
}

std::string map_key(const YAML::Node& node, const std::string& where) {
  if (!node.IsScalar()) throw input_error(where, "a key must be a word, not a list or map");
  return node.Scalar();
}

Settings read_settings(const std::string& path) {
  Settings settings;
  YAML::Node root = parse_yaml(normalise_json(read_text_file(path, kMaxRecipeBytes)), path, true);
  if (root.IsNull()) return settings;
  if (!root.IsMap()) throw input_error(path, "must be a map of sections", "model:, adapter:, data:, …");
  std::set<std::string> seen;
  for (const auto& section : root) {
    std::string name = map_key(section.first, path);
    if (!is_known_section(name)) throw unknown_recipe_key(path, name);
    if (!seen.insert(name).second) throw input_error(path, fmt::format("section '{}' is given twice", name));
    if (section.second.IsNull()) continue;
    if (!section.second.IsMap()) throw input_error(path, fmt::format("section '{}' must be a map of keys", name));
    for (const auto& item : section.second) {
      std::string key = name + "." + map_key(item.first, path);
      if (std::count(known_keys().begin(), known_keys().end(), key) == 0) throw unknown_recipe_key(path, key);
      if (!seen.insert(key).second) throw input_error(path, fmt::format("key '{}' is given twice", key));
      set(settings, key, item.second, path);
    }
  }
  return settings;
}

void apply_override(Settings& settings, const std::string& text) {
  const std::string where = "override " + quote_text(text);
  size_t equals = text.find('=');
  std::string key = text.substr(0, equals);
  if (equals == text.npos || key.find('.') == key.npos) {
    throw input_error(where, "expected section.key=value", "for example train.steps=100");
  }
  if (std::count(known_keys().begin(), known_keys().end(), key) == 0) throw unknown_recipe_key(where, key);
  set(settings, key, parse_yaml(text.substr(equals + 1), where, false), where);
}

// Rules that span keys. `settings` says which keys were written and where.
void check(const Recipe& recipe, const Settings& settings) {
  auto where = [&](const char* key) {
    auto found = settings.find(key);
    return found == settings.end() ? std::string("recipe") : found->second.where;
  };
  if (recipe.train.steps && recipe.train.epochs) {
    throw input_error(where("train.epochs"), "both train.steps and train.epochs are given", "set one of them to null");
  }
  if (recipe.train.micro_batch_size && recipe.train.micro_batch_tokens.kind != MicroBatchTokens::Kind::kNone) {
    throw input_error(where("train.micro_batch_tokens"),
                      "both train.micro_batch_size and train.micro_batch_tokens are given", "set one of them to null");
  }
  // With init_from what is not written here follows that adapter.
  bool parameters_known = recipe.adapter.init_from.empty() || settings.contains("adapter.target_parameters");
  if (recipe.adapter.lora_dropout != 0 && parameters_known && !recipe.adapter.target_parameters.empty()) {
    throw input_error(where("adapter.lora_dropout"),
                      "adapter.lora_dropout does not work together with adapter.target_parameters",
                      "set adapter.lora_dropout: 0, or adapter.target_parameters: [] to leave the experts out");
  }
  if (recipe.data.turns == Turns::kEach && recipe.data.loss_on == LossOn::kAll) {
    throw input_error(where("data.turns"),
                      "data.turns: each trains answers, and data.loss_on: all every token of every row, so that what "
                      "comes first in a conversation would count once for each answer",
                      "set data.turns: together, or data.loss_on: assistant");
  }
  if (!recipe.adapter.layers_to_transform.empty() && recipe.adapter.target_modules.regex) {
    throw input_error(where("adapter.layers_to_transform"),
                      "adapter.layers_to_transform does not work together with a regular expression in "
                      "adapter.target_modules",
                      "say the layers in the expression");
  }
  if (recipe.adapter.init_from.empty() && recipe.adapter.target_modules.empty() &&
      recipe.adapter.target_parameters.empty()) {
    throw input_error(where("adapter.target_modules"),
                      "adapter.target_modules and adapter.target_parameters are both empty: there is nothing to train");
  }
}

Recipe build(const Settings& settings) {
  Recipe recipe;
  visit_recipe(recipe, [&](const char* key, auto& field, const auto& rule, const char*) {
    auto found = settings.find(key);
    if (found != settings.end()) parse_value(found->second, field, rule);
  });
  const std::string prefix = "adapter.";
  for (const auto& [key, setting] : settings) {
    if (key.starts_with(prefix)) recipe.adapter.given.push_back(key.substr(prefix.size()));
  }
  check(recipe, settings);
  return recipe;
}

}  // namespace

Error unknown_recipe_key(const std::string& where, const std::string& key) {
  if (key == "adapter.modules_to_save")
    return input_error(where, "adapter.modules_to_save is not supported", kNoModulesToSave);
  if (key == "adapter.layers_pattern")
    return input_error(where, "adapter.layers_pattern is not needed",
                       "the layers of these models are called layers: leave the key out, adapter.layers_to_transform "
                       "counts them");
  std::vector<std::string> candidates = known_keys();
  if (key.find('.') == key.npos) {
    for (const std::string& known : known_keys()) {
      if (candidates.back() != section_of(known)) candidates.push_back(section_of(known));
    }
  }
  std::string nearest;
  // A key that is right but in the wrong section, or in none.
  for (const std::string& known : known_keys()) {
    if (known.substr(known.find('.')) == "." + key.substr(key.find('.') + 1)) nearest = known;
  }
  if (nearest.empty()) nearest = nearest_word(key, candidates);
  return input_error(where, fmt::format("unknown key {}", quote_text(key)),
                     nearest.empty() ? "" : fmt::format("did you mean '{}'?", nearest));
}

Recipe read_recipe(const std::string& path, const std::vector<std::string>& overrides) {
  Settings settings = read_settings(path);
  for (const std::string& text : overrides) apply_override(settings, text);
  return build(settings);
}

Recipe recipe_from_overrides(const std::vector<std::string>& overrides) {
  Settings settings;
  for (const std::string& text : overrides) apply_override(settings, text);
  return build(settings);
}

void require_for_training(const Recipe& recipe) {
  auto require = [](bool present, const char* key, const char* hint) {
    if (!present) throw input_error("recipe", fmt::format("missing key '{}'", key), hint);
  };
  require(!recipe.model.path.empty(), "model.path", "the folder of the checkpoint to fine-tune");
  require(!recipe.data.train.empty(), "data.train", "the files to train on");
  require(!recipe.save.dir.empty(), "save.dir", "the folder for snapshots and the final adapter");
}

bool leaves_choices(const Recipe& recipe) {
  return recipe.mesh.ep == MeshConfig::kAuto || recipe.mesh.offload == Offload::kAuto ||
         recipe.train.recompute == Recompute::kAuto;
}

void require_no_choices(const Recipe& recipe) {
  if (!leaves_choices(recipe)) return;
  const char* key = recipe.mesh.ep == MeshConfig::kAuto     ? "mesh.ep"
                    : recipe.mesh.offload == Offload::kAuto ? "mesh.offload"
                                                            : "train.recompute";
  throw input_error(key, "auto is decided by train and plan alone",
                    "say a value; a run's recipe.yaml has the one it took");
}

void check_recompute(Recompute recompute, bool all_weights_resident) {
  if (recompute == Recompute::kFull || all_weights_resident) return;
  throw input_error(
      "train.recompute", "none needs every base weight on its rank, but they are sharded or offloaded",
      "use full, give mesh.resident enough memory, or use mesh.fsdp: 1 with mesh.ep equal to the ranks of a replica");
}

std::string recipe_to_yaml(const Recipe& recipe) {
  Recipe filled = recipe;
  if (!filled.train.steps && !filled.train.epochs) filled.train.epochs = 1;
  if (filled.train.micro_batch_tokens.kind == MicroBatchTokens::Kind::kNone && !filled.train.micro_batch_size)
    filled.train.micro_batch_size = 1;
  static const std::set<std::string> kFixedByInitFrom{"r",
                                                      "expert_r",
                                                      "lora_alpha",
                                                      "use_rslora",
                                                      "experts",
                                                      "rank_pattern",
                                                      "alpha_pattern",
                                                      "lora_dropout",
                                                      "target_modules",
                                                      "exclude_modules",
                                                      "layers_to_transform",
                                                      "target_parameters"};
  std::string yaml, section;
  visit_recipe(std::as_const(filled), [&](const std::string& key, const auto& field, const auto& rule, const char*) {
    std::string name = key.substr(key.find('.') + 1);
    if (section != section_of(key)) {
      section = section_of(key);
      yaml += section + ":\n";
    }
    // What init_from decides must not turn into a demand that may disagree with it.
    const std::vector<std::string>& given = filled.adapter.given;
    if (section == "adapter" && !filled.adapter.init_from.empty() && kFixedByInitFrom.contains(name) &&
        std::count(given.begin(), given.end(), name) == 0) {
      return;
    }
    yaml += fmt::format("  {}: {}\n", name, print_field(field, rule));
  });
  return yaml;
}

std::vector<std::pair<std::string, std::string>> recipe_entries(const Recipe& recipe) {
  std::vector<std::pair<std::string, std::string>> entries;
  std::istringstream lines(recipe_to_yaml(recipe));
  std::string section;
  for (std::string line; std::getline(lines, line);) {  // a key is a line
    const size_t colon = line.find(':');
    if (line.starts_with("  ")) {
      entries.emplace_back(section + "." + line.substr(2, colon - 2), line.substr(colon + 2));
    } else {
      section = line.substr(0, colon);
    }
  }
  return entries;
}

}  // namespace moraine
