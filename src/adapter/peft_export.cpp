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

// The parts [E_local, ·, ·] of all ep ranks, one after another, on rank 0; undefined elsewhere.
at::Tensor gather_experts(const at::Tensor& part, int64_t num_experts, ProcessGroup& ep) {
  if (ep.size() == 1) return part;
  std::vector<at::Tensor> parts;
  for (int64_t rank = 0; ep.rank() == 0 && rank < ep.size(); ++rank) {
    std::vector<int64_t> shape = part.sizes().vec();
    shape[0] = expert_range(num_experts, ep.size(), rank).count;
    parts.push_back(at::empty(shape, part.options()));
  }
  ep.gather(parts, part.contiguous(), 0);
  return parts.empty() ? at::Tensor() : at::cat(parts);
}

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part, ProcessGroup& ep) {
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  const std::vector<PeftNames> names = peft_names(modules, state.peft_class());
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (size_t i = 0; i < modules.size(); ++i) {
    const AdapterEntry& entry = state.entries()[i];
    const bool grads = part == AdapterPart::kGrads;
    at::Tensor a = grads ? state.a_grad(entry).to(at::kFloat) : state.a(entry);
    at::Tensor b = grads ? state.b_grad(entry).to(at::kFloat) : state.b(entry);
    if (entry.module.num_experts > 0) {
      a = gather_experts(a, entry.module.num_experts, ep);
      b = gather_experts(b, entry.module.num_experts, ep);
      if (ep.rank() == 0) a = experts_a_to_peft(a.to(at::kCPU)), b = experts_b_to_peft(b.to(at::kCPU));
    }
    if (ep.rank() != 0) continue;
    tensors.emplace_back(names[i].lora_a, a.to(at::kCPU));
    tensors.emplace_back(names[i].lora_b, b.to(at::kCPU));
  }
  return tensors;
}

void export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                    ProcessGroup& ep) {
  const auto tensors = peft_tensors(state, AdapterPart::kValues, ep);
  if (ep.rank() != 0) return;
  write_folder_atomic(folder, [&](const std::filesystem::path& temporary) {
    write_tensors(temporary / kWeightsFile, tensors, {{"format", "pt"}});
    check_written(temporary / kWeightsFile, tensors);
    write_file_atomic(temporary / "adapter_config.json", lora_config_to_json(config));
  });
}

}  // namespace moraine
