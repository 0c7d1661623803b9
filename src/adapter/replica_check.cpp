#include "adapter/replica_check.h"

#include <xxhash.h>

#include "base/error.h"

namespace moraine {
namespace {

struct NamedHash {
  std::string name;
  int64_t hash;
};

NamedHash hash_of(const AdapterEntry& entry, const char* factor, const at::Tensor& values) {
  const at::Tensor bytes = values.cpu().contiguous();
  return {entry.module.name + factor, static_cast<int64_t>(XXH3_64bits(bytes.const_data_ptr(), bytes.nbytes()))};
}

void compare(const std::vector<NamedHash>& hashes, ProcessGroup& group, at::Device device) {
  if (group.size() == 1 || hashes.empty()) return;
  at::Tensor lowest = at::empty({static_cast<int64_t>(hashes.size())}, at::kLong);
  for (size_t i = 0; i < hashes.size(); ++i) lowest[i] = hashes[i].hash;
  lowest = lowest.to(device);
  const at::Tensor highest = lowest.clone();
  group.all_reduce(lowest, ReduceKind::kMin);
  group.all_reduce(highest, ReduceKind::kMax);
  const at::Tensor differing = at::nonzero(lowest != highest);
  if (differing.numel() == 0) return;
  throw run_error(hashes[differing[0].item<int64_t>()].name,
                  "the ranks that hold copies of this adapter tensor no longer agree",
                  "memory or network of one of them is faulty; start again from the last good state");
}

}  // namespace

void check_replicas(const AdapterState& adapter, MeshGroups& groups) {
  if (groups.world->size() == 1) return;  // nothing to compare: the adapter stays on its device
  std::vector<NamedHash> dense, experts;
  for (const AdapterEntry& entry : adapter.entries()) {
    (entry.module.has_expert_a() ? experts : dense).push_back(hash_of(entry, ".lora_A", adapter.a(entry)));
    (entry.module.has_expert_b() ? experts : dense).push_back(hash_of(entry, ".lora_B", adapter.b(entry)));
  }
  const at::Device device = adapter.device();
  compare(dense, *groups.world, device);
  compare(experts, *groups.expert_peers, device);
}

}  // namespace moraine
