// The only state that training changes: the adapter's tensors in flat fp32 buffers, and their gradients beside them.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "adapter/peft_layout.h"
#include "models/model.h"
#include "nn/lora.h"

namespace moraine {

// A flat buffer of adapter elements with its gradients.
struct AdapterSection {
  at::Tensor values;  // fp32 [n]
  at::Tensor grads;   // gradient_dtype [n], sums of d loss
  // The elements that this rank updates; other ranks with the same values update the others.
  int64_t owned_begin = 0, owned_size = 0;
};

// The owner of a part of a section: part `index` of `count` equal ones.
struct SectionShard {
  int64_t index = 0, count = 1;
};

// One adapted weight within the state. A is [R, I] ([E, R, I] for experts), B is [O, R] ([E, O, R]); R is the module's
// own r, and E counts this rank's experts, or is 1 for a factor that all experts share.
struct AdapterEntry {
  LoraModule module;
  int64_t a_offset = 0, b_offset = 0;  // elements within the section that has the factor
};

// Where every factor lies, without any tensor: the state allocates by it, and plans count by it.
struct AdapterLayout {
  std::vector<AdapterEntry> entries;
  int64_t dense_size = 0, expert_size = 0;  // elements of the sections
};
// `experts`: the expert ids this rank holds. Throws an input error for ranks that make it larger than any memory.
AdapterLayout lay_out_adapter(std::vector<LoraModule> modules, ExpertRange experts);

// Elements of one of `count` equal parts of a section; the section is padded to `count` such parts.
inline int64_t section_part_size(int64_t elements, int64_t count) { return (elements + count - 1) / count; }

class AdapterState {
 public:
  // Lays out `modules`, which have their ranks, with zero values. `experts`: the expert ids this rank holds.
  AdapterState(std::vector<LoraModule> modules, ExpertRange experts, at::Device device);

  // Splits the experts' section into equal parts, of which this rank updates one. Call before an optimizer is made.
  void shard_experts(SectionShard shard);

  // PEFT's initial values: A uniform in ±1/√I (kaiming_uniform with a = √5), B zero; of the embedding A zero, B
  // standard normal. Each element depends only on `seed`, the tensor's name, the expert's id and its place in the
  // expert's factor: the same on every mesh. A factor that all experts share has the values of expert 0's.
  void initialize(uint64_t seed);

  // Linear layers' adapters, and factors that all experts share, are the same on every rank; experts' own differ
  // between ep ranks.
  AdapterSection& dense() { return dense_; }
  AdapterSection& experts() { return experts_; }
  const std::vector<AdapterEntry>& entries() const { return entries_; }
  ExpertRange expert_range() const { return expert_range_; }
  // Whose names the files have that this adapter is read from and written to.
  PeftClass peft_class() const { return peft_class_; }
  void set_peft_class(PeftClass peft_class) { peft_class_ = peft_class; }
  at::Device device() const { return dense_.values.device(); }
  // Of the whole adapter, all experts counted.
  int64_t num_parameters() const;

  // Views of an entry's factors.
  at::Tensor a(const AdapterEntry& entry) const { return view(entry, entry.a_offset, Factor::kA, /*grad=*/false); }
  at::Tensor b(const AdapterEntry& entry) const { return view(entry, entry.b_offset, Factor::kB, /*grad=*/false); }
  at::Tensor a_grad(const AdapterEntry& entry) const { return view(entry, entry.a_offset, Factor::kA, /*grad=*/true); }
  at::Tensor b_grad(const AdapterEntry& entry) const { return view(entry, entry.b_offset, Factor::kB, /*grad=*/true); }

  void zero_grads();

  // A layer's adapters for a pass: views, with those of the gradients if its backward pass shall add to them.
  // `dropout_keys_T`: Batch's.
  enum class Gradients { kNo, kAdd };
  LayerAdapter layer_adapter(int64_t layer, Gradients gradients, const at::Tensor& dropout_keys_T = {}) const;
  // Those of the embedding and the output head, under kEmbeddingModule and kHeadModule.
  LayerAdapter outer_adapter(Gradients gradients, const at::Tensor& dropout_keys_T = {}) const;
  // The rate of dropout in passes over batches with keys for it; at first 0.
  double dropout() const { return dropout_; }
  void set_dropout(double rate) { dropout_ = rate; }

 private:
  enum class Factor { kA, kB };
  at::Tensor view(const AdapterEntry& entry, int64_t offset, Factor factor, bool grad) const;
  LoraPair pair_of(const AdapterEntry& entry, Gradients gradients, const at::Tensor& dropout_keys_T) const;

  PeftClass peft_class_ = PeftClass::kText;
  double dropout_ = 0;
  ExpertRange expert_range_;
  std::vector<AdapterEntry> entries_;
  AdapterSection dense_, experts_;
};

}  // namespace moraine
