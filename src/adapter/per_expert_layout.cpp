#include "adapter/per_expert_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <unordered_set>

#include "adapter/peft_keys.h"
#include "adapter/shared_outer.h"
#include "adapter/target_kind.h"
#include "base/error.h"

namespace moraine {
namespace {

constexpr std::string_view kWeight = ".weight";

// A checkpoint with a tensor for each expert and projection, also where the hub's is fused.
std::optional<DType> stored_by_expert(const std::string& tensor) {
  if (tensor.ends_with(kWeight) && tensor.find(".experts.") != tensor.npos) return DType::kBF16;
  return std::nullopt;
}

// A head of its own, also where it is tied.
std::optional<DType> everything_stored(const std::string&) { return DType::kBF16; }

std::string module_of(PeftClass peft_class, const SourceTensor& source) {
  MORAINE_ASSERT(source.name.ends_with(kWeight), "a matrix is a module's weight: " + source.name);
  std::string name = source.name.substr(0, source.name.size() - kWeight.size());
  if (name.starts_with(kMultimodalStem)) name = kTextStem + name.substr(std::string_view(kMultimodalStem).size());
  return module_name_in(peft_class, name);
}

}  // namespace

std::vector<PerExpertModule> per_expert_modules(const ModelLayout& layout, PeftClass peft_class,
                                                const std::vector<LoraModule>& modules) {
  std::map<int64_t, std::vector<ParamSpec>> params;  // of each layer
  std::vector<PerExpertModule> found;
  for (const LoraModule& module : modules) {
    std::vector<ParamSpec>& of_layer = params[module.layer];
    if (of_layer.empty() && !module.in_layer()) {
      of_layer = layout.root_spec(everything_stored).params;
    } else if (of_layer.empty()) {
      of_layer = layout.dense_spec(module.layer, no_checkpoint()).params;
      for (ParamSpec& param : layout.experts_spec(module.layer, stored_by_expert).params)
        of_layer.push_back(std::move(param));
    }
    const std::string name = is_parameter(module) ? module.local_name : module.local_name + std::string(kWeight);
    const auto param =
        std::find_if(of_layer.begin(), of_layer.end(), [&](const ParamSpec& p) { return p.name == name; });
    MORAINE_ASSERT(param != of_layer.end(), "a module that LoRA can adapt has a parameter: " + module.name);
    PerExpertModule stored;
    if (module.num_experts == 0 || param->sources.front().name.ends_with(kWeight)) {
      for (const SourceTensor& source : param->sources) stored.matrices.push_back(module_of(peft_class, source));
      stored.projections = static_cast<int64_t>(stored.matrices.size()) / std::max<int64_t>(module.num_experts, 1);
    }
    found.push_back(std::move(stored));
  }
  return found;
}

void check_per_expert(const std::vector<LoraModule>& modules, const std::vector<PerExpertModule>& stored,
                      const std::string& where) {
  for (size_t i = 0; i < modules.size(); ++i)
    if (stored[i].matrices.empty())
      throw input_error(where,
                        fmt::format("adapts {}, which checkpoints of this family store as one tensor of all experts "
                                    "with gate and up interleaved: there is no layout with a module for each expert",
                                    modules[i].name),
                        "use PEFT's layout, or train without experts (adapter.target_parameters)");
}

std::vector<std::string> per_expert_linear_layers(const ModelLayout& layout, PeftClass peft_class) {
  std::vector<std::string> names;
  for (int64_t layer = 0; layer < layout.shape().num_hidden_layers; ++layer)
    for (const ParamSpec& param : layout.dense_spec(layer, no_checkpoint()).params)
      if (param.shape.size() == 2 && param.name.ends_with(kWeight))
        names.push_back(module_of(peft_class, param.sources.front()));
  return names;
}

bool is_per_expert(const ModelLayout& layout, const SafetensorsHeader& weights, const LoraConfig& config) {
  const PeftClass peft_class = peft_class_of(weights);
  const std::vector<LoraModule> offered = layout.lora_modules();
  std::unordered_set<std::string> of_peft, routers, stored;
  for (const LoraModule& module : offered) {
    const std::string name = module_name_in(peft_class, adapted_name(module));
    of_peft.insert(name);
    if (is_router(module)) routers.insert(name);
  }
  for (const PerExpertModule& module : per_expert_modules(layout, peft_class, offered))
    stored.insert(module.matrices.begin(), module.matrices.end());
  if (has_stacked_experts(weights)) return true;
  bool found = false, has_router = false;
  for (const SafetensorsEntry& entry : weights.entries) {
    const std::string module = adapted_module(entry.name);
    const bool has_peft = of_peft.contains(module), has_stored = stored.contains(module);
    if (has_peft && !has_stored) return false;
    found |= has_stored && !has_peft;
    has_router |= routers.contains(module);
  }
  // A router that has the same name in both is a parameter in PEFT's.
  return found || (has_router && config.target_parameters.empty());
}

}  // namespace moraine
