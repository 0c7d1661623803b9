#include "plan/memory_plan.h"

#include <algorithm>
#include <bit>

#include "adapter/adapter_collectives.h"
#include "adapter/optimizer.h"
#include "plan/activation_plan.h"
#include "plan/rank_group.h"

namespace moraine {
namespace {

constexpr double kMiB = 1 << 20;

// What follows is of the CPU alone; what CUDA takes is in plan/device_rates.
// libtorch's code, tables and threads in memory, without and with process groups (measured: x86-64, torch 2.13's CPU
// build).
constexpr double kBaseBytes = 135 * kMiB, kGroupsBytes = 10 * kMiB;
// Readers' pieces while loading and verifying, and what the headers take for each of a checkpoint's tensors.
constexpr double kReaderBytes = 48 * kMiB, kHeaderBytes = 1500;
// What malloc cannot give back or use again, as a part of what lies in its heap (activations, adapter): blocks of all
// sizes come and go between ones that stay (measured). And the hole that a layer's largest tensor leaves: small ones
// that stay are put into it, and the next of its size does not fit (measured).
constexpr double kHeapWaste = 0.1;

constexpr double kLargestInHeap = 256 * kMiB;  // base/process: larger blocks are mapped on their own

// Elements of the adapter's sections.
struct AdapterSizes {
  double dense = 0, experts = 0, owned_experts = 0;
  double saved = 0;                  // in a file, which has what all experts share as often as there are experts
  double largest_expert_factor = 0;  // of all experts
};

AdapterSizes adapter_sizes(const PlannedModel& model, const PlannedRun& run, ExpertRange experts) {
  const AdapterLayout layout = lay_out_adapter(model.targets, experts);
  AdapterSizes sizes;
  sizes.dense = static_cast<double>(layout.dense_size);
  sizes.owned_experts = static_cast<double>(section_part_size(layout.expert_size, run.mesh.ep_fsdp));
  sizes.experts = sizes.owned_experts * run.mesh.ep_fsdp;
  for (const LoraModule& m : model.targets) {
    const double rows = static_cast<double>(m.num_experts * m.r);
    sizes.saved += static_cast<double>(std::max<int64_t>(m.num_experts, 1) * m.r) * (m.in_features + m.out_features);
    sizes.largest_expert_factor = std::max(sizes.largest_expert_factor, rows * std::max(m.in_features, m.out_features));
  }
  return sizes;
}

// all_reduce_in_rank_order of a bucket: the parts of all ranks, and c10d's copy while the sums are gathered.
double reduction_bytes(double elements, int64_t group, double gradient) {
  return group == 1 ? 0 : 3 * std::min<double>(elements, kReducedAtOnce) * gradient;
}

// What NCCL takes for its communicators; those of the purposes kTokens and kEp exchange all to all.
uint64_t communicator_bytes(const PlannedRun& run, int64_t rank) {
  uint64_t bytes = 0;
  for (const MeshCommunicator& communicator : mesh_communicators(run.mesh, rank)) {
    bytes += run.rates.communicator;
    const bool exchanges = std::any_of(communicator.purposes.begin(), communicator.purposes.end(), [](MeshPurpose p) {
      return p == MeshPurpose::kTokens || p == MeshPurpose::kEp;
    });
    if (exchanges)
      bytes += run.rates.exchange_peer * static_cast<uint64_t>(RankGroup(run, MeshAxis::kEp, rank).node_peers());
  }
  return bytes;
}

// What images that stay in the host's memory take there.
uint64_t pinned_bytes(const PlannedModel& model, const GatherSchedule& images) {
  uint64_t bytes = 0, largest = 0;
  for (int image = 0; image < static_cast<int>(model.sizes.size()); ++image) {
    if (!images.image(image).on_host || images.is_resident(image)) continue;
    bytes += std::bit_ceil(images.image(image).bytes);
    largest = std::max(largest, images.image(image).bytes);
  }
  return bytes + largest;
}

uint64_t whole(double bytes) { return static_cast<uint64_t>(std::clamp(bytes, 0.0, 9e18)); }

}  // namespace

std::vector<int64_t> memory_class(const PlannedModel& model, const PlannedRun& run, int64_t rank) {
  const PassShape pass = plan_pass(model, run, rank);
  return {pass.local_experts, pass.tokens(), pass.world_of_tokens, rank == 0};
}

RankMemory plan_memory(const PlannedModel& model, const PlannedRun& run, int64_t rank, double imbalance) {
  const Mesh& mesh = run.mesh;
  const ExpertRange experts = expert_range(model.shape.num_experts, mesh.ep, mesh.group_rank(MeshAxis::kEp, rank));
  const GatherSchedule images = gather_schedule(model, run, experts);
  const AdapterSizes adapter = adapter_sizes(model, run, experts);
  const ActivationPlan pass = plan_activations(model, run, plan_pass(model, run, rank, imbalance));
  const double gradient = static_cast<double>(c10::elementSize(gradient_dtype(run.device)));
  const bool on_cpu = run.device.is_cpu();

  RankMemory memory;
  if (on_cpu) memory.base = whole(kBaseBytes + (mesh.world_size() > 1 ? kGroupsBytes : 0));
  memory.offloaded_base = images.host_bytes();
  if (!on_cpu) {
    memory.communicators = communicator_bytes(run, rank);
    memory.base = run.rates.context + memory.communicators;
    memory.host = pinned_bytes(model, images);
  }
  memory.resident_base = images.held_bytes() + (on_cpu ? memory.offloaded_base : 0);
  memory.gather_buffers = images.buffer_bytes();
  memory.adapter = whole((kFloat + gradient) * (adapter.dense + adapter.experts));
  memory.optimizer = whole(2 * kFloat * (adapter.dense + adapter.owned_experts));
  memory.loading = memory.resident_base;
  if (on_cpu)
    memory.loading +=
        whole(kReaderBytes + kHeaderBytes * static_cast<double>(model.checkpoint.headers.index.tensors.size()));
  memory.kernels = whole(pass.kernels);

  memory.stages = {
      {"forward pass", pass.forward},
      {"loss", pass.head},
      {"backward pass", pass.backward},
      {"gradient reduction",
       std::max(reduction_bytes(adapter.dense, mesh.world_size(), gradient),
                reduction_bytes(adapter.experts, mesh.group_size(MeshAxis::kExpertPeers), gradient))},
      {"update",
       std::min<double>(std::max(adapter.dense, adapter.owned_experts), kUpdatedAtOnce) * (2 * kFloat + gradient)},
      {"updated values", mesh.ep_fsdp > 1 ? (adapter.owned_experts + adapter.experts) * kFloat : 0},
      // A second copy while the values are cut; there are no moments yet.
      {"new adapter", adapter.experts * gradient - static_cast<double>(memory.optimizer)},
      // Rank 0 has one factor of all experts at a time, as it was gathered and in PEFT's order; cut for the ranks when
      // it is put back.
      {"saving", rank == 0 ? 4 * adapter.largest_expert_factor * kFloat : 0},
  };
  double most = 0;
  for (const MemoryStage& stage : memory.stages) most = std::max(most, stage.bytes);
  const double heap = most + pass.kernels;
  memory.activations = whole(heap);
  if (on_cpu)
    memory.activations = whole(heap + std::min(pass.largest, kLargestInHeap) +
                               kHeapWaste * (heap + static_cast<double>(memory.adapter + memory.optimizer)));
  return memory;
}

uint64_t snapshot_bytes(const PlannedModel& model, const PlannedRun& run) {
  const AdapterSizes adapter = adapter_sizes(model, run, expert_range(model.shape.num_experts, run.mesh.ep, 0));
  return whole(3 * kFloat * adapter.saved);
}

uint64_t largest_peak(const PlannedModel& model, const PlannedRun& run) { return plan_memory(model, run, 0).peak(); }

}  // namespace moraine
