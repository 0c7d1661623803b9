// The adapter's tensors as PEFT's files have them, and how they come from the ranks that hold their parts to rank 0 and
// back: one at a time, so that no rank holds more than its own part and, on rank 0, one whole tensor with a copy.
//
// Experts' factors are split over ep. What belongs to the elements that a rank updates (AdamW's moments) is split
// further, over ep_fsdp, by place in the experts' section; what is written shows neither.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "adapter/adapter_state.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

struct AdapterTensor {
  std::string name;            // PEFT's key
  std::vector<int64_t> shape;  // PEFT's, of all experts
  size_t entry = 0;            // index into AdapterState::entries()
  bool is_a = false;           // lora_A, else lora_B
};

// All of them, by name: the order in which files have them, the same on every rank and mesh.
std::vector<AdapterTensor> adapter_tensors(const AdapterState& state);

// This rank's part of `tensor`, [R, I] or [O, R] ([E, R, I], [E, O, R]; of a factor that all experts share [1, R, I],
// [1, O, R], which files have as often as there are experts): a view.
at::Tensor local_values(const AdapterState& state, const AdapterTensor& tensor);
at::Tensor local_grads(const AdapterState& state, const AdapterTensor& tensor);

// `part` is shaped as local_values. Rank 0 of `ep` gets the whole tensor in PEFT's layout on the CPU, its other ranks
// an undefined one; all of them must call this, and only one ep group of the world need.
at::Tensor collect(const AdapterState& state, const AdapterTensor& tensor, const at::Tensor& part, ProcessGroup& ep);

// The other way: `whole`, PEFT's layout, counts on rank 0 of the world only. Every rank gets its part, shaped as
// local_values. All ranks of the world must call this.
at::Tensor distribute(const AdapterState& state, const AdapterTensor& tensor, const at::Tensor& whole,
                      MeshGroups& groups);

// `owned` [owned_size] belongs to the elements of a section that this rank updates. The part of `tensor` of all ranks
// of `ep_fsdp` (which must all call this) on its rank 0, shaped as local_values; undefined elsewhere.
at::Tensor collect_owned(AdapterState& state, const AdapterTensor& tensor, const at::Tensor& owned,
                         ProcessGroup& ep_fsdp);
// Puts what this rank updates of `part`, shaped as local_values, into `owned`.
void keep_owned(AdapterState& state, const AdapterTensor& tensor, const at::Tensor& part, const at::Tensor& owned);

}  // namespace moraine
