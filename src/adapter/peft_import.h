// Reads a PEFT adapter folder.
#pragma once

#include <filesystem>
#include <vector>

#include "adapter/adapter_state.h"
#include "config/lora_config.h"
#include "formats/safetensors.h"

namespace moraine {

// FOLDER/adapter_model.safetensors, its header checked against what it is for; factors are read a module at a time.
class PeftWeights {
 public:
  // `modules`: all of the adapter, in the model's order. Throws an input error that names file and tensor: missing,
  // unexpected or wrong-shaped tensors, other dtypes than F32, BF16, F16.
  PeftWeights(const std::filesystem::path& folder, std::vector<LoraModule> modules, int64_t r);

  const std::vector<LoraModule>& modules() const { return modules_; }
  PeftClass peft_class() const { return peft_class_; }

  struct Factors {
    at::Tensor a, b;
  };
  // Of modules()[module], fp32: A [R, I] and B [O, R]; of experts A [E, R, I] and B [E, O, R] of all of them. From any
  // thread.
  Factors read(size_t module) const;

 private:
  SafetensorsHeader header_;
  std::vector<LoraModule> modules_;
  PeftClass peft_class_;
  std::vector<PeftNames> names_;
};

// Fills `state` (laid out for the adapter's own targets) from FOLDER/adapter_model.safetensors; what is written of it
// later has the names found there (PeftClass). Throws input errors as PeftWeights does.
void import_adapter(AdapterState& state, const std::filesystem::path& folder);

}  // namespace moraine
