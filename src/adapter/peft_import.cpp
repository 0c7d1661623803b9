#include "adapter/peft_import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "adapter/peft_layout.h"
#include "base/error.h"
#include "load/tensor_file.h"

namespace moraine {
namespace {

at::Tensor read_factor(const SafetensorsHeader& header, const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsEntry* entry = header.find(name);
  const std::string file = header.path.string();
  if (!entry) throw input_error(file, "tensor " + name + " is missing", "adapter_config.json implies it");
  if (entry->shape != shape) {
    throw input_error(file, fmt::format("tensor {} has shape [{}], expected [{}]", name, fmt::join(entry->shape, ", "),
                                        fmt::join(shape, ", ")),
                      "the adapter was made for another model, another r, or by PEFT older than 0.19.1");
  }
  if (entry->dtype != DType::kF32 && entry->dtype != DType::kBF16 && entry->dtype != DType::kF16) {
    throw input_error(file, fmt::format("tensor {} has dtype {}", name, dtype_name(entry->dtype)), "expected F32, BF16 or F16");
  }
  return read_tensor(header, *entry).to(at::kFloat);
}

}  // namespace

void import_adapter(AdapterState& state, const std::filesystem::path& folder) {
  const SafetensorsHeader header = read_safetensors_header(folder / "adapter_model.safetensors");
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  state.set_peft_class(peft_class_of(header));
  const std::vector<PeftNames> names = peft_names(modules, state.peft_class());
  std::set<std::string> used;
  const int64_t r = state.r();
  const ExpertRange experts = state.expert_range();
  for (size_t i = 0; i < modules.size(); ++i) {
    const AdapterEntry& entry = state.entries()[i];
    const LoraModule& m = entry.module;
    const int64_t copies = std::max<int64_t>(m.num_experts, 1);
    at::Tensor a = read_factor(header, names[i].lora_a, {copies * r, m.in_features});
    at::Tensor b = read_factor(header, names[i].lora_b, {m.out_features, copies * r});
    if (m.num_experts > 0) {
      a = experts_a_from_peft(a, m.num_experts).narrow(0, experts.first, experts.count);
      b = experts_b_from_peft(b, m.num_experts).narrow(0, experts.first, experts.count);
    }
    state.a(entry).copy_(a);
    state.b(entry).copy_(b);
    used.insert(names[i].lora_a);
    used.insert(names[i].lora_b);
  }
  for (const SafetensorsEntry& entry : header.entries) {
    if (!used.contains(entry.name)) {
      throw input_error(header.path.string(), "unexpected tensor " + entry.name,
                        "adapter_config.json and adapter_model.safetensors do not belong together");
    }
  }
}

}  // namespace moraine
