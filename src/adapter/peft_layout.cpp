#include "adapter/peft_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "adapter/peft_keys.h"
#include "adapter/target_kind.h"

namespace moraine {
namespace {

std::string parent_module(const std::string& parameter) { return parameter.substr(0, parameter.rfind('.')); }

}  // namespace

PeftClass peft_class_of(const SafetensorsHeader& weights) {
  const std::string prefix = fmt::format("{}{}", kPeftPrefix, kMultimodalStem);
  const bool multimodal = std::any_of(weights.entries.begin(), weights.entries.end(),
                                      [&](const SafetensorsEntry& entry) { return entry.name.starts_with(prefix); });
  return multimodal ? PeftClass::kMultimodal : PeftClass::kText;
}

std::string module_name_in(PeftClass peft_class, const std::string& module) {
  if (peft_class == PeftClass::kText || !module.starts_with(kTextStem)) return module;
  return kMultimodalStem + module.substr(std::string(kTextStem).size());
}

std::string adapted_module(const std::string& tensor) {
  const size_t begin = std::string(kPeftPrefix).size(), end = tensor.rfind(".lora_");
  if (!tensor.starts_with(kPeftPrefix) || end == tensor.npos || end < begin) return "";
  std::string module = tensor.substr(begin, end - begin);
  const std::string wrapped = ".base_layer";
  while (module.ends_with(wrapped)) module.resize(module.size() - wrapped.size());
  return module;
}

std::vector<PeftNames> peft_names(const std::vector<LoraModule>& modules, PeftClass peft_class) {
  std::map<std::string, int64_t> wrappers_left;  // of each experts module
  for (const LoraModule& m : modules)
    if (m.num_experts > 0) ++wrappers_left[parent_module(m.name)];
  std::vector<PeftNames> names;
  for (const LoraModule& m : modules) {
    const std::string name = module_name_in(peft_class, m.name);
    if (m.num_experts == 0) {
      names.push_back(factor_keys(m, is_router(m) ? parent_module(name) : name));
      continue;
    }
    std::string wrapper = parent_module(name);
    for (int64_t depth = --wrappers_left[parent_module(m.name)]; depth > 0; --depth) wrapper += ".base_layer";
    names.push_back(factor_keys(m, wrapper));
  }
  return names;
}

at::Tensor experts_a_to_peft(const at::Tensor& a_ERI) { return a_ERI.reshape({-1, a_ERI.size(2)}).contiguous(); }

at::Tensor experts_b_to_peft(const at::Tensor& b_EOR) {
  return b_EOR.permute({1, 2, 0}).reshape({b_EOR.size(1), -1}).contiguous();
}

bool is_rank_major(const at::Tensor& b_EOR) { return b_EOR.permute({1, 2, 0}).is_contiguous(); }

at::Tensor experts_a_from_peft(const at::Tensor& lora_a, int64_t num_experts) {
  return lora_a.view({num_experts, -1, lora_a.size(1)});
}

at::Tensor experts_b_from_peft(const at::Tensor& lora_b, int64_t num_experts) {
  return lora_b.view({lora_b.size(0), -1, num_experts}).permute({2, 0, 1}).contiguous();
}

}  // namespace moraine
