#include "adapter/peft_export.h"

#include <optional>

#include "adapter/adapter_tensors.h"
#include "base/file.h"
#include "checkpoint/tensor_file.h"

namespace moraine {
namespace {

constexpr const char* kWeightsFile = "adapter_model.safetensors";

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> peft_tensors(const AdapterState& state, AdapterPart part,
                                                             ProcessGroup& ep) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const AdapterTensor& tensor : adapter_tensors(state)) {
    const at::Tensor local =
        part == AdapterPart::kGrads ? local_grads(state, tensor).to(at::kFloat) : local_values(state, tensor);
    const at::Tensor whole = collect(state, tensor, local, ep);
    if (ep.rank() == 0) tensors.emplace_back(tensor.name, whole);
  }
  return tensors;
}

void write_adapter_files(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                         ProcessGroup& ep) {
  const std::vector<AdapterTensor> tensors = adapter_tensors(state);
  std::optional<TensorFileWriter> file;
  if (ep.rank() == 0) {
    std::vector<TensorFileWriter::Declared> declared;
    for (const AdapterTensor& tensor : tensors) declared.push_back({tensor.name, tensor.shape});
    file.emplace(folder / kWeightsFile, declared, std::map<std::string, std::string>{{"format", "pt"}});
  }
  for (const AdapterTensor& tensor : tensors) {
    const at::Tensor whole = collect(state, tensor, local_values(state, tensor), ep);
    if (file) file->append(whole);
  }
  if (!file) return;
  file->finish();
  write_file_atomic(folder / "adapter_config.json", lora_config_to_json(config));
}

void export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                    ProcessGroup& ep) {
  if (ep.rank() != 0) return write_adapter_files(state, config, folder, ep);
  write_folder_atomic(
      folder, [&](const std::filesystem::path& temporary) { write_adapter_files(state, config, temporary, ep); });
}

}  // namespace moraine
