#include "adapter/peft_import.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>

#include "adapter/peft_layout.h"
#include "base/error.h"
#include "checkpoint/tensor_file.h"
#include "formats/folder_parts.h"

namespace moraine {
namespace {

void check_factor(const SafetensorsHeader& header, const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsEntry* entry = header.find(name);
  const std::string file = header.path.string();
  if (!entry) throw input_error(file, "tensor " + name + " is missing", "adapter_config.json implies it");
  if (entry->shape != shape) {
    throw input_error(file,
                      fmt::format("tensor {} has shape [{}], expected [{}]", name, fmt::join(entry->shape, ", "),
                                  fmt::join(shape, ", ")),
                      "the adapter was made for another model, another r, or by PEFT older than 0.19.1");
  }
  if (entry->dtype != DType::kF32 && entry->dtype != DType::kBF16 && entry->dtype != DType::kF16) {
    throw input_error(file, fmt::format("tensor {} has dtype {}", name, dtype_name(entry->dtype)),
                      "expected F32, BF16 or F16");
  }
}

}  // namespace

PeftWeights::PeftWeights(const std::filesystem::path& folder, std::vector<LoraModule> modules, int64_t r)
    : header_(read_safetensors_header(find_in_folder(folder, FolderPart::kAdapterWeights))),
      modules_(std::move(modules)),
      peft_class_(peft_class_of(header_)),
      names_(peft_names(modules_, peft_class_)) {
  std::set<std::string> used;
  for (size_t i = 0; i < modules_.size(); ++i) {
    const LoraModule& m = modules_[i];
    const int64_t copies = std::max<int64_t>(m.num_experts, 1);
    check_factor(header_, names_[i].lora_a, {copies * r, m.in_features});
    check_factor(header_, names_[i].lora_b, {m.out_features, copies * r});
    used.insert(names_[i].lora_a);
    used.insert(names_[i].lora_b);
  }
  for (const SafetensorsEntry& entry : header_.entries) {
    if (!used.contains(entry.name)) {
      throw input_error(header_.path.string(), "unexpected tensor " + entry.name,
                        "adapter_config.json and adapter_model.safetensors do not belong together");
    }
  }
}

PeftWeights::Factors PeftWeights::read(size_t module) const {
  const int64_t num_experts = modules_[module].num_experts;
  const at::Tensor a = read_tensor(header_, *header_.find(names_[module].lora_a)).to(at::kFloat);
  const at::Tensor b = read_tensor(header_, *header_.find(names_[module].lora_b)).to(at::kFloat);
  if (num_experts == 0) return {a, b};
  return {experts_a_from_peft(a, num_experts), experts_b_from_peft(b, num_experts)};
}

void import_adapter(AdapterState& state, const std::filesystem::path& folder) {
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  const PeftWeights weights(folder, std::move(modules), state.r());
  state.set_peft_class(weights.peft_class());
  const ExpertRange experts = state.expert_range();
  for (size_t i = 0; i < state.entries().size(); ++i) {
    const AdapterEntry& entry = state.entries()[i];
    auto [a, b] = weights.read(i);
    if (entry.module.num_experts > 0) {
      a = a.narrow(0, experts.first, experts.count);
      b = b.narrow(0, experts.first, experts.count);
    }
    state.a(entry).copy_(a);
    state.b(entry).copy_(b);
  }
}

}  // namespace moraine
