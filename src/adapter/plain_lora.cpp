#include "adapter/plain_lora.h"

#include <fmt/format.h>

#include <algorithm>

#include "adapter/full_match.h"
#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

// rank_pattern or alpha_pattern: the value of the first key, in the file's order, that matches a module's name or its
// end after a dot.
template <typename T>
class ModulePattern {
 public:
  ModulePattern(const std::vector<std::pair<std::string, T>>& pattern, T otherwise, const std::string& where)
      : otherwise_(otherwise) {
    for (const auto& [key, value] : pattern)
      entries_.push_back({FullMatch("(.*\\.)?(" + key + ")", where), value, key});
  }
  T of(const std::string& module) {
    for (Entry& entry : entries_) {
      if (!entry.matches(module)) continue;
      entry.used = true;
      return entry.value;
    }
    return otherwise_;
  }
  std::vector<std::string> unused_keys() const {
    std::vector<std::string> keys;
    for (const Entry& entry : entries_)
      if (!entry.used) keys.push_back(entry.key);
    return keys;
  }

 private:
  struct Entry {
    FullMatch matches;
    T value;
    std::string key;
    bool used = false;
  };
  T otherwise_;
  std::vector<Entry> entries_;
};

}  // namespace

std::vector<LoraModule> in_transformed_layers(const LoraConfig& config, std::vector<LoraModule> selected,
                                              PeftClass peft_class) {
  if (config.layers_to_transform.empty()) return selected;
  const auto holds = [](const auto& list, const auto& value) {
    return std::find(list.begin(), list.end(), value) != list.end();
  };
  std::erase_if(selected, [&](const LoraModule& module) {
    // Neither experts nor modules with their whole name in the list are asked for their layer.
    return module.num_experts == 0 && !holds(config.layers_to_transform, module.layer) &&
           !holds(config.target_modules.names, module_name_in(peft_class, module.name));
  });
  return selected;
}

LoraConfig plain_lora(LoraConfig config, const std::vector<LoraModule>& modules, PeftClass peft_class,
                      const std::string& where, std::vector<std::string>& unmatched) {
  ModulePattern<int64_t> ranks(config.rank_pattern, config.r, where);
  ModulePattern<double> alphas(config.alpha_pattern, config.lora_alpha, where);
  const LoraModule* first = nullptr;
  LoraConfig plain = config;
  for (const LoraModule& module : modules) {
    const std::string name = module_name_in(peft_class, module.name);
    const int64_t r = ranks.of(name);
    const double alpha = alphas.of(name);
    if (!first) {
      first = &module;
      plain.r = r;
      plain.lora_alpha = alpha;
    }
    if (r == plain.r && alpha == plain.lora_alpha) continue;
    const bool rank_differs = r != plain.r;
    const std::string what = rank_differs
                                 ? fmt::format("r {} to {} and r {}", plain.r, first->name, r)
                                 : fmt::format("lora_alpha {} to {} and {}", plain.lora_alpha, first->name, alpha);
    throw input_error(
        where,
        fmt::format("{} gives {} to {}: adapters of several {} are not supported",
                    rank_differs ? "rank_pattern" : "alpha_pattern", what, name, rank_differs ? "ranks" : "scalings"),
        "train with one r and one lora_alpha for all modules, or merge the adapter into its model with PEFT's "
        "merge_and_unload");
  }
  for (const std::string& key : ranks.unused_keys()) unmatched.push_back("rank_pattern " + quote_text(key));
  for (const std::string& key : alphas.unused_keys()) unmatched.push_back("alpha_pattern " + quote_text(key));
  if (config.use_rslora) plain.lora_alpha = plain.scaling() * static_cast<double>(plain.r);
  plain.use_rslora = false;
  plain.rank_pattern.clear();
  plain.alpha_pattern.clear();
  return plain;
}

}  // namespace moraine
