#include "adapter/peft_export.h"

#include "adapter/peft_layout.h"
#include "base/error.h"
#include "base/file.h"
#include "load/tensor_file.h"

namespace moraine {
namespace {

constexpr const char* kWeightsFile = "adapter_model.safetensors";

void check_written(const std::filesystem::path& file, const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  const SafetensorsHeader header = read_safetensors_header(file);
  for (const auto& [name, tensor] : tensors) {
    const SafetensorsEntry* entry = header.find(name);
    if (!entry || !at::equal(read_tensor(header, *entry), tensor)) {
      throw run_error(file.string(), "tensor " + name + " read back differs from the one written",
                      "the storage is faulty; save.dir elsewhere");
    }
  }
}

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part) {
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  const std::vector<PeftNames> names = peft_names(modules);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (size_t i = 0; i < modules.size(); ++i) {
    const AdapterEntry& entry = state.entries()[i];
    const bool grads = part == AdapterPart::kGrads;
    at::Tensor a = (grads ? state.a_grad(entry) : state.a(entry)).to(at::kCPU);
    at::Tensor b = (grads ? state.b_grad(entry) : state.b(entry)).to(at::kCPU);
    const bool is_experts = entry.module.num_experts > 0;
    tensors.emplace_back(names[i].lora_a, is_experts ? experts_a_to_peft(a) : a);
    tensors.emplace_back(names[i].lora_b, is_experts ? experts_b_to_peft(b) : b);
  }
  return tensors;
}

void export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder) {
  const auto tensors = peft_tensors(state, AdapterPart::kValues);
  write_folder_atomic(folder, [&](const std::filesystem::path& temporary) {
    write_tensors(temporary / kWeightsFile, tensors, {{"format", "pt"}});
    check_written(temporary / kWeightsFile, tensors);
    write_file_atomic(temporary / "adapter_config.json", lora_config_to_json(config));
  });
}

}  // namespace moraine
