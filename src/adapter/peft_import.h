// Reads the tensors of an adapter folder: PEFT's own, one in the per-expert layout or one in that of shared outer
// factors.
#pragma once

#include <filesystem>
#include <utility>
#include <vector>

#include "adapter/adapter_state.h"
#include "base/error.h"
#include "config/lora_config.h"
#include "formats/safetensors.h"

namespace moraine {

// An adapter of which factors are read a module at a time.
class AdapterFactors {
 public:
  // `modules`: all of the adapter with their ranks, in the model's order.
  AdapterFactors(std::vector<LoraModule> modules, PeftClass peft_class)
      : modules_(std::move(modules)), peft_class_(peft_class) {}
  virtual ~AdapterFactors() = default;
  AdapterFactors(const AdapterFactors&) = delete;
  AdapterFactors& operator=(const AdapterFactors&) = delete;

  const std::vector<LoraModule>& modules() const { return modules_; }
  PeftClass peft_class() const { return peft_class_; }

  // Of modules()[module], fp32: A [R, I] and B [O, R]; of experts A [E, R, I] and B [E, O, R] of all of them, of which
  // one that all share is in memory once (expanded). Else each is a view of memory in PEFT's layout. It is the
  // caller's alone, and takes no more than that. From any thread. Throws an input error that names the tensor where
  // gate's A is not up's, or one that all experts share is not the same.
  virtual at::Tensor read_a(size_t module) const = 0;
  virtual at::Tensor read_b(size_t module) const = 0;

 protected:
  std::vector<LoraModule> modules_;
  PeftClass peft_class_;
};

// FOLDER/adapter_model.safetensors, its header checked against what it is for.
class PeftWeights : public AdapterFactors {
 public:
  // Throws an input error that names file and tensor: missing, unexpected or wrong-shaped tensors, other dtypes than
  // F32, BF16, F16.
  PeftWeights(const ModelLayout& layout, const std::filesystem::path& folder, std::vector<LoraModule> modules);

  at::Tensor read_a(size_t module) const override;
  at::Tensor read_b(size_t module) const override;

 private:
  struct Stored {
    std::vector<const SafetensorsEntry*> a, b;  // one, or those of the per-expert layout's matrices
    int64_t projections = 0;                    // 0: one tensor
    bool swapped = false;                       // of experts in one tensor: has_swapped_experts
    bool stacked = false;                       // a tensor for each projection: adapter/shared_outer
  };
  Error other_a(const SafetensorsEntry& a, const SafetensorsEntry& than) const;
  at::Tensor all_of_a(size_t module) const;
  at::Tensor all_of_b(size_t module) const;
  // The one [R, I] or [O, R] that all experts share.
  at::Tensor shared_a(size_t module) const;
  at::Tensor shared_b(size_t module) const;

  SafetensorsHeader header_;
  std::vector<Stored> stored_;
};

// Fills `state`, laid out for the modules of `factors`; what is written of it later has names of their class.
void import_factors(AdapterState& state, const AdapterFactors& factors);

// Fills `state` (laid out for the adapter's own targets) from FOLDER/adapter_model.safetensors; what is written of it
// later has the names found there (PeftClass). Throws input errors as PeftWeights does.
void import_adapter(const ModelLayout& layout, AdapterState& state, const std::filesystem::path& folder);

}  // namespace moraine
