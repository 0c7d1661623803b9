#include "adapter/peft_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "adapter/adapter_tensors.h"
#include "adapter/shared_outer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
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

WrittenAdapter write_adapter_files(const AdapterState& state, const LoraConfig& config,
                                   const std::filesystem::path& folder, ProcessGroup& ep) {
  const std::vector<AdapterTensor> tensors = adapter_tensors(state);
  std::optional<TensorFileWriter> file;
  WrittenAdapter written;
  if (ep.rank() == 0) {
    std::vector<TensorFileWriter::Declared> declared;
    for (const AdapterTensor& tensor : tensors) declared.push_back({tensor.name, tensor.shape});
    file.emplace(folder / kWeightsFile, declared, adapter_metadata(config.experts));
  }
  for (const AdapterTensor& tensor : tensors) {
    const at::Tensor whole = collect(state, tensor, local_values(state, tensor), ep);
    if (!file) continue;
    file->append(whole);
    // The factor that begins as zero.
    if (tensor.is_a != state.entries()[tensor.entry].module.is_embedding()) continue;
    ++written.lora_b;
    if (!at::any(whole).item<bool>()) written.zero_b.push_back(tensor.name);
  }
  if (!file) return written;
  written.xxh3 = file->finish(/*with_hash=*/true);
  write_file_atomic(folder / "adapter_config.json", lora_config_to_json(config));
  const SafetensorsHeader header = read_safetensors_header(folder / kWeightsFile);
  written.tensors = static_cast<int64_t>(header.entries.size());
  for (const SafetensorsEntry& entry : header.entries) written.elements += num_elements(entry.shape);
  int64_t expected = 0;
  for (const AdapterTensor& tensor : tensors) expected += num_elements(tensor.shape);
  if (written.elements != expected)
    throw run_error((folder / kWeightsFile).string(),
                    fmt::format("holds {} elements, but the adapter has {}", written.elements, expected),
                    "the storage is faulty; save.dir elsewhere");
  written.bytes = header.file_size;
  return written;
}

WrittenAdapter export_adapter(const AdapterState& state, const LoraConfig& config, const std::filesystem::path& folder,
                              ProcessGroup& ep) {
  if (ep.rank() != 0) return write_adapter_files(state, config, folder, ep);
  WrittenAdapter written;
  write_folder_atomic(folder, [&](const std::filesystem::path& temporary) {
    written = write_adapter_files(state, config, temporary, ep);
  });
  return written;
}

OrderedJson WrittenAdapter::to_json() const {
  return {{"tensors", tensors}, {"elements", elements}, {"bytes", bytes},
          {"xxh3", xxh3},       {"lora_b", lora_b},     {"lora_b_zero", zero_b.size()}};
}

void warn_of_zero_b(const WrittenAdapter& written, const std::filesystem::path& folder) {
  constexpr size_t kNamed = 3;
  if (written.zero_b.empty()) return;
  std::vector<std::string> named(written.zero_b.begin(),
                                 written.zero_b.begin() + std::min(kNamed, written.zero_b.size()));
  if (written.zero_b.size() > kNamed) named.push_back(fmt::format("{} more", written.zero_b.size() - kNamed));
  log_warning(
      fmt::format("{}: {} of {} lora_B tensors are all zero after training and change nothing: {} (no gradient has "
                  "reached them: no token came to those experts, or the loss does not depend on those layers)",
                  folder.string(), written.zero_b.size(), written.lora_b, join_words(named)));
}

}  // namespace moraine
