#include "adapter/server_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "adapter/full_match.h"
#include "adapter/peft_keys.h"
#include "adapter/per_expert_layout.h"
#include "adapter/target_kind.h"
#include "adapter/target_names.h"
#include "adapter/target_selection.h"
#include "base/error.h"
#include "base/text.h"
#include "config/hf_config.h"
#include "config/lora_config.h"
#include "formats/folder_parts.h"
#include "formats/safetensors.h"

namespace moraine {
namespace {

constexpr std::string_view kLayers = "layers.";
constexpr std::string_view kBaseLayer = ".base_layer";

struct LayerName {
  std::string stem, local;  // of "model.layers.3.mlp.gate": "model." and "mlp.gate"
  int64_t layer = 0;
};

// nullopt for a name outside of the layers.
std::optional<LayerName> in_layer(const std::string& name) {
  for (size_t at = name.find(kLayers); at != name.npos; at = name.find(kLayers, at + 1)) {
    if (at > 0 && name[at - 1] != '.') continue;
    const size_t first = at + kLayers.size(), end = name.find_first_not_of("0123456789", first);
    if (end == name.npos || end == first || end - first > 9 || name[end] != '.') continue;
    return LayerName{name.substr(0, at), name.substr(end + 1), std::stoll(name.substr(first, end - first))};
  }
  return std::nullopt;
}

// Every run of digits between dots as `with`.
std::string without_numbers(const std::string& name, const std::string& with) {
  std::string text;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, end - at);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    text += (number ? with : part) + (end < name.size() ? "." : "");
    at = end + 1;
  }
  return text;
}

// The first rule that matches. Names that differ in numbers alone have the same.
class Rules {
 public:
  explicit Rules(const std::vector<NameRule>& rules) {
    for (const NameRule& rule : rules) rules_.emplace_back(FullMatch(rule.pattern, "servers"), &rule);
  }
  const NameRule* find(const std::string& name) {
    const auto [known, is_new] = found_.try_emplace(without_numbers(name, "0"), nullptr);
    if (!is_new) return known->second;
    for (const auto& [matches, rule] : rules_) {
      if (!matches(known->first)) continue;
      known->second = rule;
      break;
    }
    return known->second;
  }

 private:
  std::vector<std::pair<FullMatch, const NameRule*>> rules_;
  std::unordered_map<std::string, const NameRule*> found_;
};

struct Sizes {
  int64_t in = 0, out = 0;  // 0: not known
};

// The modules of a model.
struct Modules {
  struct Experts {
    LoraModule parameter;
    int64_t projections = 1;
  };
  std::unordered_map<std::string, Sizes> linear;    // by "LAYER.LOCAL"
  std::map<int64_t, std::vector<Experts>> experts;  // of each layer, in the model's order: gate and up, down
  std::string experts_name;                         // "mlp.experts", as transformers calls it
  int64_t layers = 0, num_experts = 0, vocabulary = 0, hidden = 0;

  // `of_checkpoint`: linear layers have the names of the checkpoint's tensors, not transformers'.
  Modules(const ModelLayout& layout, bool of_checkpoint)
      : layers(layout.shape().num_hidden_layers),
        num_experts(layout.shape().num_experts),
        vocabulary(layout.shape().vocab_size),
        hidden(layout.shape().hidden_size) {
    const auto add = [&](const std::string& name, Sizes sizes) {
      if (const auto split = in_layer(name)) linear[key(split->layer, split->local)] = sizes;
    };
    const std::vector<std::string> names =
        of_checkpoint ? per_expert_linear_layers(layout, PeftClass::kText) : linear_layers(layout, PeftClass::kText);
    for (const std::string& name : names) add(name, {});
    std::vector<LoraModule> offered = layout.lora_modules();
    std::erase_if(offered, is_router);  // among the linear layers
    const std::vector<PerExpertModule> stored = per_expert_modules(layout, PeftClass::kText, offered);
    for (size_t i = 0; i < offered.size(); ++i) {
      const LoraModule& module = offered[i];
      if (module.num_experts > 0) {
        experts[module.layer].push_back({module, stored[i].projections});
        experts_name = module.local_name.substr(0, module.local_name.rfind('.'));
      } else {
        add(of_checkpoint ? stored[i].matrices.front() : module.name, {module.in_features, module.out_features});
      }
    }
  }
  static std::string key(int64_t layer, const std::string& local) { return fmt::format("{}.{}", layer, local); }
};

// The number of the routed expert that a module in a layer belongs to: "mlp.experts.7.w1".
std::optional<int64_t> expert_of(const std::string& local) {
  constexpr std::string_view kExperts = "experts.";
  const size_t at = local.find(kExperts);
  if (at == local.npos || (at > 0 && local[at - 1] != '.')) return std::nullopt;
  const size_t first = at + kExperts.size(), end = local.find_first_not_of("0123456789", first);
  if (end == local.npos || end == first || end - first > 9 || local[end] != '.') return std::nullopt;
  return std::stoll(local.substr(first, end - first));
}

// A key of adapter_model.safetensors taken apart.
struct Key {
  std::string name;  // empty: not a key of a factor
  bool is_a = false;
};

Key parse_key(KeyForm form, const std::string& key) {
  const std::string prefix = kPeftPrefix;
  if (form == KeyForm::kSglang) {
    const bool is_a = key.find("lora_A") != key.npos;
    const size_t end = std::min({key.find(".lora_A"), key.find(".lora_B"), key.find(".lora_embedding_")});
    if (end == key.npos) return {};
    std::string name = key.substr(0, end);
    if (name.starts_with(prefix)) name = name.substr(prefix.size());
    return {name, is_a || key.find("lora_embedding_A") != key.npos};
  }
  std::string name = key;
  if (name.starts_with(prefix)) {
    while (name.starts_with(prefix)) {  // vLLM takes out all
      name = name.substr(prefix.size());
      if (form == KeyForm::kPeft) break;
    }
  } else if (form == KeyForm::kPeft) {
    return {};
  }
  for (const auto& [ending, is_a] : {std::pair{".lora_A.weight", true},
                                     {".lora_B.weight", false},
                                     {".lora_embedding_A", true},
                                     {".lora_embedding_B", false}}) {
    if (name.ends_with(ending)) return {name.substr(0, name.size() - std::string_view(ending).size()), is_a};
  }
  return {};
}

// PEFT's matching of target_modules, exclude_modules and target_parameters, by names alone.
class Targets {
 public:
  Targets(const Json& config, const std::string& key, const std::string& where) {
    const auto found = config.find(key);
    if (found == config.end()) return;
    if (found->is_string() && !found->get<std::string>().empty()) {
      if (*found == "all-linear")
        all_ = true;
      else
        regex_.emplace(found->get<std::string>(), where);
    }
    if (!found->is_array()) return;
    for (const Json& name : *found)
      if (name.is_string()) names_.push_back(name.get<std::string>());
  }
  bool holds(const std::string& module) const {
    if (all_) return true;
    if (regex_) return (*regex_)(module);
    return std::any_of(names_.begin(), names_.end(),
                       [&](const std::string& name) { return module == name || module.ends_with("." + name); });
  }
  bool is_list() const { return !all_ && !regex_; }
  bool is_all() const { return all_; }
  const std::vector<std::string>& names() const { return names_; }

 private:
  bool all_ = false;
  std::optional<FullMatch> regex_;
  std::vector<std::string> names_;
};

bool is_set(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null() || *found == false || found->empty()) return false;
  return !found->is_string() || (*found != "" && *found != "none");
}

std::string lower_case(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

std::string short_text(const Json& value) { return one_line(value.dump(-1, ' ', true), 60); }

// One adapter's keys and their fates.
class Check {
 public:
  Check(const Server& server, const std::string& family, const ModelLayout& layout, const std::filesystem::path& folder)
      : server_(server),
        rules_(rules_for(server, family)),
        family_(family),
        modules_(layout, server.form != KeyForm::kPeft),
        file_(HfConfig::read(find_in_folder(folder, FolderPart::kAdapterConfig))),
        header_(read_safetensors_header(find_in_folder(folder, FolderPart::kAdapterWeights))),
        targets_(file_.json(), "target_modules", file_.where()),
        excluded_(file_.json(), "exclude_modules", file_.where()),
        parameters_(file_.json(), "target_parameters", file_.where()) {
    if (rules_) {
      in_layer_.emplace(rules_->in_layer);
      outside_.emplace(rules_->outside);
    }
  }

  ServerReport run() {
    check_config();
    for (const SafetensorsEntry& entry : header_.entries) keys_.push_back(&entry);
    for (const SafetensorsEntry* entry : keys_) {
      parsed_.push_back(parse_key(server_.form, entry->name));
      if (!parsed_.back().name.empty()) factors_[parsed_.back().name] |= parsed_.back().is_a ? 1 : 2;
    }
    collect_experts();
    check_version();
    std::map<std::string, size_t> row_of;
    for (size_t i = 0; i < keys_.size(); ++i) {
      const NameRule fate = fate_of(i);
      const std::string name = keys_[i]->name, pattern = pattern_of(name);
      const auto [row, is_new] =
          row_of.try_emplace(fmt::format("{}\n{}\n{}", pattern, static_cast<int>(fate.fate), fate.says), 0);
      if (is_new) {
        row->second = report_.tensors.size();
        report_.tensors.push_back({pattern, name, 0, fate.fate, fate.says});
      }
      ++report_.tensors[row->second].count;
      ++count(fate.fate);
    }
    return std::move(report_);
  }

 private:
  int64_t& count(Fate fate) {
    return fate == Fate::kRead ? report_.read : fate == Fate::kIgnored ? report_.ignored : report_.refused;
  }

  static std::string pattern_of(const std::string& key) {
    std::string text = without_numbers(key, "*");
    for (const char* factor : {".lora_A", ".lora_B"})
      if (const size_t at = text.find(factor); at != text.npos) text.replace(at, 7, ".lora_*");
    return text;
  }

  void config_row(const std::string& key, Fate fate, const std::string& says) {
    report_.config.push_back({key, key, 1, fate, says});
    ++count(fate);
  }

  // What target_modules names, as the program calls it.
  std::set<std::string> called_targets() const {
    std::set<std::string> names;
    for (const std::string& target : targets_.names()) names.insert(called_target(server_, target));
    return names;
  }

  void check_config() {
    const Json& config = file_.json();
    for (const std::string& key : server_.needed)
      if (!config.contains(key)) config_row(key, Fate::kRefused, "is missing");
    for (const ConfigRule& rule : server_.config)
      if (is_set(config, rule.key)) config_row(rule.key, rule.fate, short_text(config[rule.key]) + ": " + rule.says);
    const auto init = config.find("init_lora_weights");
    if (!server_.plain_inits.empty() && init != config.end() && init->is_string() &&
        std::find(server_.plain_inits.begin(), server_.plain_inits.end(), lower_case(init->get<std::string>())) ==
            server_.plain_inits.end())
      config_row("init_lora_weights", Fate::kRefused, short_text(*init) + ": changes the base model");
    if (!server_.ranks.empty() && config.contains("r") && config["r"].is_number_integer() &&
        config["r"].get<int64_t>() > server_.ranks.back())
      config_row("r", Fate::kRefused, fmt::format("{}: {} is the most", config["r"].dump(), server_.ranks.back()));
    if (server_.peft_targets && rules_ && !reads_each_expert() && targets_.is_list() && !targets_.names().empty() &&
        !targets_.holds(kHeadModule) && !targets_.holds(kEmbeddingModule) &&
        std::none_of(modules_.linear.begin(), modules_.linear.end(),
                     [&](const auto& module) { return targets_.holds("model.layers." + module.first); }))
      config_row("target_modules", Fate::kRefused, short_text(config["target_modules"]) + ": no module of the model");
    if (!rules_ || rules_->targets.empty() || !config.contains("target_modules")) return;
    if (!config["target_modules"].is_array()) {
      const bool all = config["target_modules"] == "all-linear";
      if (!all) config_row("target_modules", Fate::kRefused, short_text(config["target_modules"]) + ": must be a list");
      return;
    }
    std::vector<std::string> unknown;
    for (const std::string& name : called_targets())
      if (std::find(rules_->targets.begin(), rules_->targets.end(), name) == rules_->targets.end())
        unknown.push_back(name);
    if (!unknown.empty())
      config_row("target_modules", Fate::kRefused,
                 fmt::format("names {}: the server does not start with {}", join_words(unknown),
                             unknown.size() == 1 ? "it" : "them"));
  }

  bool reads_each_expert() const {
    return std::find(rules_->formats.begin(), rules_->formats.end(), AdapterFormat::kPerExpert) !=
           rules_->formats.end();
  }

  // Shapes do not always tell, and nobody looks at the version.
  void check_version() {
    const Json& config = file_.json();
    if (!has_wrappers_ || !config.contains("peft_version") || !config["peft_version"].is_string()) return;
    if (has_swapped_experts(config["peft_version"].get<std::string>()))
      config_row("peft_version", Fate::kRefused,
                 short_text(config["peft_version"]) + ": that PEFT has the factors of 3-D experts swapped");
  }

  // Which layers' experts are whole, in either layout, and which have both.
  void collect_experts() {
    std::map<int64_t, std::set<std::string>> each, wrappers;
    for (const auto& [name, factors] : factors_) {
      const auto split = in_layer(name);
      if (!split) continue;
      if (is_wrapper(split->local))
        wrappers[split->layer].insert(split->local);
      else if (expert_of(split->local))
        each[split->layer].insert(split->local);
    }
    for (const auto& [layer, names] : each) {
      if (wrappers.contains(layer)) mixed_.insert(layer);
      if (static_cast<int64_t>(names.size()) < 3 * modules_.num_experts) partial_.insert(layer);
    }
    has_wrappers_ = !wrappers.empty();
    for (const auto& [layer, names] : wrappers)
      if (names.size() < 2) partial_.insert(layer);
  }

  bool is_wrapper(std::string local) const {
    while (local.ends_with(kBaseLayer)) local.resize(local.size() - kBaseLayer.size());
    return local == modules_.experts_name;
  }
  // The experts' matrices of a projection in one tensor (adapter/shared_outer).
  static bool is_stacked(const std::string& local) {
    return local.ends_with(".experts.w1") || local.ends_with(".experts.w2") || local.ends_with(".experts.w3");
  }
  NameRule fate_of(size_t i) {
    const Key& key = parsed_[i];
    const std::string& tensor = keys_[i]->name;
    if (!rules_) return {"", server_.unknown.fate, fmt::format("{} reads no adapters of {}", server_.version, family_)};
    if (key.name.empty()) {
      if (server_.form == KeyForm::kSglang && in_layer(tensor)) return {"", Fate::kRefused, "is no lora_A or lora_B"};
      return {"", server_.form == KeyForm::kVllm ? Fate::kRefused : Fate::kIgnored,
              server_.form == KeyForm::kPeft ? fmt::format("is not {}NAME.lora_A.weight or .lora_B.weight", kPeftPrefix)
                                             : "is not NAME.lora_A.weight or NAME.lora_B.weight"};
    }
    NameRule fate = rule_of(key.name);
    if (fate.fate != Fate::kRead) return fate;
    if (factors_.at(key.name) != 3) return server_.half;
    const auto split = in_layer(key.name);
    if (!split) return fate_outside(key, fate, keys_[i]->shape);
    if (const auto other = misfit(*split, key, keys_[i]->shape)) return *other;
    if (const auto other = fate_of_companions(*split, key.name)) return *other;
    return fate;
  }

  // Of the embedding and the head.
  NameRule fate_outside(const Key& key, const NameRule& fate, const std::vector<int64_t>& shape) const {
    const bool targeted = targets_.holds(key.name) && !targets_.is_all() && !excluded_.holds(key.name);
    if (server_.peft_targets && !targeted) return {"", Fate::kIgnored, "target_modules does not name it"};
    const bool embedding = key.name.ends_with("embed_tokens");
    const int64_t in = embedding ? modules_.vocabulary : modules_.hidden,
                  out = embedding ? modules_.hidden : modules_.vocabulary, side = key.is_a ? in : out;
    if (shape.size() == 2 && shape[key.is_a ? 1 : 0] == side)
      return {"", fate.fate, fate.says.empty() ? key.name : fate.says};
    return {"", Fate::kRefused,
            fmt::format("has shape [{}], but the module {} {}", fmt::join(shape, ", "), side,
                        key.is_a ? "inputs" : "outputs")};
  }

  NameRule rule_of(const std::string& name) {
    const auto split = in_layer(name);
    const NameRule* rule = split ? in_layer_->find(split->local) : outside_->find(name);
    NameRule fate = rule ? *rule : server_.unknown;
    if (!split || fate.fate != Fate::kRead) return fate;
    const bool stem = rules_->stems.empty() ||
                      std::find(rules_->stems.begin(), rules_->stems.end(), split->stem) != rules_->stems.end();
    const bool renamed = modules_.linear.contains(Modules::key(split->layer, fate.says));
    if (!stem || !(renamed || is_there(*split))) return server_.absent;
    if (fate.says.empty()) fate.says = split->local;
    return fate;
  }

  bool is_there(const LayerName& split) const {
    if (split.layer >= modules_.layers) return false;
    const bool has_experts = modules_.experts.contains(split.layer);
    if (is_wrapper(split.local) || is_stacked(split.local)) return has_experts;
    if (const auto expert = expert_of(split.local)) return has_experts && *expert < modules_.num_experts;
    return modules_.linear.contains(Modules::key(split.layer, split.local));
  }

  static bool fits_matrix(const std::vector<int64_t>& shape, const Key& key, const Sizes& sizes) {
    return shape[key.is_a ? 1 : 0] == (key.is_a ? sizes.in : sizes.out);
  }

  std::optional<NameRule> misfit(const LayerName& split, const Key& key, const std::vector<int64_t>& shape) const {
    const auto wrong = [&](const std::string& expected) {
      return NameRule{"", Fate::kRefused,
                      fmt::format("has shape [{}], but the module {}", fmt::join(shape, ", "), expected)};
    };
    const auto fits = [&](const Sizes& sizes, int64_t copies) {
      return shape.size() == 2 && fits_matrix(shape, key, sizes) && shape[key.is_a ? 0 : 1] % copies == 0;
    };
    const auto sides = [&](const Sizes& sizes) {
      return fmt::format("{} {}", key.is_a ? sizes.in : sizes.out, key.is_a ? "inputs" : "outputs");
    };
    if (is_wrapper(split.local)) {
      std::vector<std::string> possible;
      for (const auto& [parameter, projections] : modules_.experts.at(split.layer)) {
        const Sizes sizes{parameter.in_features, parameter.out_features};
        if (fits(sizes, parameter.num_experts)) return std::nullopt;
        possible.push_back(sides(sizes));
      }
      return wrong(fmt::format("{} experts with {}", modules_.num_experts, fmt::join(possible, " or ")));
    }
    Sizes sizes;
    if (is_stacked(split.local)) {
      const auto& [parameter, projections] = modules_.experts.at(split.layer)[split.local.ends_with("w2") ? 1 : 0];
      sizes = {parameter.in_features, parameter.out_features / projections};
      const bool fits_all = shape.size() == 3 && (shape[0] == 1 || shape[0] == parameter.num_experts) &&
                            fits_matrix({shape[1], shape[2]}, key, sizes);
      return fits_all ? std::nullopt
                      : std::optional(wrong(fmt::format("{} experts with {}", modules_.num_experts, sides(sizes))));
    }
    if (expert_of(split.local)) {
      const std::string last = last_component(split.local);
      const bool down = last == "w2" || last == "down_proj";
      const auto& [parameter, projections] = modules_.experts.at(split.layer)[down ? 1 : 0];
      sizes = {parameter.in_features, parameter.out_features / projections};
    } else if (const auto found = modules_.linear.find(Modules::key(split.layer, split.local));
               found != modules_.linear.end()) {
      sizes = found->second;
    }
    if (sizes.in == 0 || fits(sizes, 1)) return std::nullopt;
    return wrong(sides(sizes));
  }

  // What else must be there.
  std::optional<NameRule> fate_of_companions(const LayerName& split, const std::string& name) const {
    const bool wrapper = is_wrapper(split.local),
               of_expert = expert_of(split.local).has_value() || is_stacked(split.local);
    const std::string last = last_component(name), parent = name.substr(0, name.size() - last.size());
    if (wrapper || of_expert) {
      if (mixed_.contains(split.layer)) return NameRule{"", Fate::kRefused, "the layer has experts in both layouts"};
      if (server_.experts == Experts::kWhole && partial_.contains(split.layer))
        return NameRule{"", Fate::kRefused, "a layer's experts are adapted wholly, all projections, or not at all"};
      if (server_.experts == Experts::kByTargets && targets_.is_list()) {
        const std::set<std::string> called = called_targets();
        const bool down = last == "w2" || last == "down_proj";
        if (!called.contains(down ? "down_proj" : "gate_up_proj"))
          return NameRule{"", Fate::kRefused,
                          fmt::format("target_modules does not name {}", down ? "down_proj" : "gate_proj and up_proj")};
        if (!called.contains("gate_up_proj") || !called.contains("down_proj"))
          return NameRule{"", Fate::kIgnored,
                          "experts are adapted where target_modules names gate_proj, up_proj and down_proj"};
      }
    }
    for (const auto& [one, other] : server_.companions)
      if (last == one && !factors_.contains(parent + other))
        return NameRule{"", Fate::kRefused, fmt::format("{} is adapted together with {}", one, other)};
    if (!rules_->targets.empty() && targets_.is_list() && !wrapper && !of_expert) {
      if (!called_targets().contains(called_target(server_, name)))
        return NameRule{"", Fate::kRefused, "target_modules does not name it"};
    }
    if (server_.peft_targets && !targeted(split, name, wrapper))
      return NameRule{"", Fate::kIgnored,
                      wrapper ? "target_parameters does not name it" : "target_modules does not name it"};
    return std::nullopt;
  }

  bool targeted(const LayerName& split, const std::string& name, bool wrapper) const {
    // A router's weight is a parameter there.
    if (!wrapper) return (targets_.holds(name) && !excluded_.holds(name)) || parameters_.holds(name + ".weight");
    int64_t adapted = 0, depth = 0;
    const std::string root = name.substr(0, name.find(modules_.experts_name));
    for (const Modules::Experts& experts : modules_.experts.at(split.layer))
      adapted += parameters_.holds(root + experts.parameter.local_name);
    for (size_t at = name.find(kBaseLayer); at != name.npos; at = name.find(kBaseLayer, at + 1)) ++depth;
    return depth < adapted;
  }

  const Server& server_;
  const FamilyRules* rules_;
  std::string family_;
  Modules modules_;
  HfConfig file_;
  SafetensorsHeader header_;
  Targets targets_, excluded_, parameters_;
  std::optional<Rules> in_layer_, outside_;
  std::vector<const SafetensorsEntry*> keys_;
  std::vector<Key> parsed_;
  std::map<std::string, int> factors_;  // of each name: 1 for A, 2 for B
  std::set<int64_t> mixed_, partial_;   // layers
  bool has_wrappers_ = false;
  ServerReport report_;
};

}  // namespace

ServerReport check_for_server(const Server& server, const std::string& family, const ModelLayout& layout,
                              const std::filesystem::path& folder) {
  return Check(server, family, layout, folder).run();
}

std::vector<NameRule> rules_of_names(const Server& server, const FamilyRules& rules,
                                     const std::vector<std::string>& names) {
  Rules layers(rules.in_layer), outside(rules.outside);
  std::vector<NameRule> found;
  for (const std::string& name : names) {
    const auto split = in_layer(name);
    const NameRule* rule = split ? layers.find(split->local) : outside.find(name);
    found.push_back(rule ? *rule : server.unknown);
  }
  return found;
}

std::string called_target(const Server& server, const std::string& name) {
  const std::string last = last_component(name);
  const auto found = server.target_names.find(last);
  return found == server.target_names.end() ? last : found->second;
}

}  // namespace moraine
