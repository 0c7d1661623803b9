#include "adapter/adapter_tensors.h"

#include <algorithm>

#include "adapter/peft_layout.h"

namespace moraine {
namespace {

const LoraModule& module_of(const AdapterState& state, const AdapterTensor& tensor) {
  return state.entries()[tensor.entry].module;
}

// Whether each expert has one of its own.
bool is_experts(const AdapterState& state, const AdapterTensor& tensor) {
  const LoraModule& module = module_of(state, tensor);
  return tensor.is_a ? module.has_expert_a() : module.has_expert_b();
}

// [1, …] of all experts → PEFT's, which has each expert's.
at::Tensor shared_to_peft(const at::Tensor& shared, const LoraModule& module, bool is_a) {
  const at::Tensor each = shared.expand({module.num_experts, -1, -1});
  return is_a ? experts_a_to_peft(each) : experts_b_to_peft(each);
}

at::Tensor from_peft(const at::Tensor& whole, const LoraModule& module, bool is_a) {
  return is_a ? experts_a_from_peft(whole, module.num_experts) : experts_b_from_peft(whole, module.num_experts);
}

std::vector<int64_t> with_experts(const at::Tensor& part, int64_t count) {
  std::vector<int64_t> shape = part.sizes().vec();
  shape[0] = count;
  return shape;
}

// The elements of a section that hold a rank's part of a tensor, cut to those that one rank of ep_fsdp updates.
struct Overlap {
  int64_t begin = 0, count = 0;  // begin: within the section
};

Overlap overlap(const AdapterState& state, const AdapterTensor& tensor, int64_t owned_begin, int64_t owned_size) {
  const AdapterEntry& entry = state.entries()[tensor.entry];
  const int64_t first = tensor.is_a ? entry.a_offset : entry.b_offset;
  const int64_t last = first + local_values(state, tensor).numel();
  const int64_t begin = std::max(first, owned_begin), end = std::min(last, owned_begin + owned_size);
  return {begin, std::max<int64_t>(0, end - begin)};
}

AdapterSection& section_of(AdapterState& state, const AdapterTensor& tensor) {
  return is_experts(state, tensor) ? state.experts() : state.dense();
}

}  // namespace

std::vector<AdapterTensor> adapter_tensors(const AdapterState& state) {
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  const std::vector<PeftNames> names = peft_names(modules, state.peft_class());
  std::vector<AdapterTensor> tensors;
  for (size_t i = 0; i < modules.size(); ++i) {
    const int64_t rows = std::max<int64_t>(modules[i].num_experts, 1) * modules[i].r;
    tensors.push_back({names[i].lora_a, {rows, modules[i].in_features}, i, true});
    tensors.push_back({names[i].lora_b, {modules[i].out_features, rows}, i, false});
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const AdapterTensor& a, const AdapterTensor& b) { return a.name < b.name; });
  return tensors;
}

at::Tensor local_values(const AdapterState& state, const AdapterTensor& tensor) {
  const AdapterEntry& entry = state.entries()[tensor.entry];
  return tensor.is_a ? state.a(entry) : state.b(entry);
}

at::Tensor local_grads(const AdapterState& state, const AdapterTensor& tensor) {
  const AdapterEntry& entry = state.entries()[tensor.entry];
  return tensor.is_a ? state.a_grad(entry) : state.b_grad(entry);
}

at::Tensor collect(const AdapterState& state, const AdapterTensor& tensor, const at::Tensor& part, ProcessGroup& ep) {
  if (!is_experts(state, tensor)) {
    if (ep.rank() != 0) return at::Tensor();
    const at::Tensor whole = part.to(at::kCPU);
    return whole.dim() == 2 ? whole : shared_to_peft(whole, module_of(state, tensor), tensor.is_a);
  }
  at::Tensor all = part;
  if (ep.size() > 1) {
    std::vector<at::Tensor> parts;
    for (int64_t rank = 0; ep.rank() == 0 && rank < ep.size(); ++rank) {
      const ExpertRange experts = expert_range(module_of(state, tensor).num_experts, ep.size(), rank);
      parts.push_back(at::empty(with_experts(part, experts.count), part.options()));
    }
    ep.gather(parts, part.contiguous(), 0);
    if (ep.rank() != 0) return at::Tensor();
    all = at::cat(parts);
  }
  all = all.to(at::kCPU);
  return tensor.is_a ? experts_a_to_peft(all) : experts_b_to_peft(all);
}

at::Tensor distribute(const AdapterState& state, const AdapterTensor& tensor, const at::Tensor& whole,
                      MeshGroups& groups) {
  const bool is_root = groups.world->rank() == 0;
  at::Tensor part = at::empty_like(local_values(state, tensor), at::MemoryFormat::Contiguous);
  if (!is_experts(state, tensor)) {
    if (is_root) part.copy_(part.dim() == 2 ? whole : from_peft(whole, module_of(state, tensor), tensor.is_a)[0]);
    groups.world->broadcast(part, 0);
    return part;
  }
  // Rank 0 is the first of the first ep group, whose ranks are each the first of those with the same experts.
  if (groups.world->rank() < groups.mesh.ep) {
    const int64_t num_experts = module_of(state, tensor).num_experts;
    std::vector<at::Tensor> parts;
    if (is_root) {
      const at::Tensor all = from_peft(whole, module_of(state, tensor), tensor.is_a).to(state.device());
      for (int64_t rank = 0; rank < groups.mesh.ep; ++rank) {
        const ExpertRange experts = expert_range(num_experts, groups.mesh.ep, rank);
        parts.push_back(all.narrow(0, experts.first, experts.count).contiguous());
      }
    }
    groups.ep->scatter(part, parts, 0);
  }
  groups.expert_peers->broadcast(part, 0);
  return part;
}

at::Tensor collect_owned(AdapterState& state, const AdapterTensor& tensor, const at::Tensor& owned,
                         ProcessGroup& ep_fsdp) {
  const AdapterSection& section = section_of(state, tensor);
  const at::Tensor values = local_values(state, tensor);
  const Overlap own = overlap(state, tensor, section.owned_begin, section.owned_size);
  const at::Tensor piece =
      own.count > 0 ? owned.narrow(0, own.begin - section.owned_begin, own.count) : owned.narrow(0, 0, 0);
  if (!is_experts(state, tensor) || ep_fsdp.size() == 1) return piece.view(values.sizes());
  std::vector<at::Tensor> pieces;
  for (int64_t rank = 0; ep_fsdp.rank() == 0 && rank < ep_fsdp.size(); ++rank)
    pieces.push_back(
        at::empty({overlap(state, tensor, rank * section.owned_size, section.owned_size).count}, owned.options()));
  ep_fsdp.gather(pieces, piece, 0);
  return pieces.empty() ? at::Tensor() : at::cat(pieces).view(values.sizes());
}

void keep_owned(AdapterState& state, const AdapterTensor& tensor, const at::Tensor& part, const at::Tensor& owned) {
  const AdapterSection& section = section_of(state, tensor);
  const AdapterEntry& entry = state.entries()[tensor.entry];
  const Overlap own = overlap(state, tensor, section.owned_begin, section.owned_size);
  if (own.count == 0) return;
  const int64_t first = tensor.is_a ? entry.a_offset : entry.b_offset;
  owned.narrow(0, own.begin - section.owned_begin, own.count)
      .copy_(part.reshape({-1}).narrow(0, own.begin - first, own.count));
}

}  // namespace moraine
