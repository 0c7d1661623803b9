#include "adapter/adapter_collectives.h"

#include <algorithm>
#include <cmath>

namespace moraine {
namespace {

template <typename Body>
void for_each_bucket(const at::Tensor& flat, const Body& body) {
  for (int64_t begin = 0; begin < flat.numel(); begin += kReducedAtOnce)
    body(flat.narrow(0, begin, std::min(kReducedAtOnce, flat.numel() - begin)));
}

double sum_of_squares(const at::Tensor& flat) {
  at::Tensor sum = at::zeros({}, flat.options().dtype(at::kDouble));
  for_each_bucket(flat, [&](const at::Tensor& bucket) { sum += bucket.to(at::kDouble).square().sum(); });
  return sum.item<double>();
}

}  // namespace

void reduce_gradients(AdapterState& adapter, MeshGroups& groups) {
  for_each_bucket(adapter.dense().grads, [&](const at::Tensor& bucket) { groups.world->all_reduce(bucket); });
  for_each_bucket(adapter.experts().grads, [&](const at::Tensor& bucket) { groups.expert_peers->all_reduce(bucket); });
}

double global_gradient_norm(AdapterState& adapter, MeshGroups& groups) {
  // Ranks of the ep group hold different experts; every ep group computes the same sum.
  at::Tensor experts = at::full({1}, sum_of_squares(adapter.experts().grads), at::TensorOptions().dtype(at::kDouble));
  experts = experts.to(adapter.experts().grads.device());
  groups.ep->all_reduce_in_rank_order(
      experts);  // NCCL's own order may differ from group to group, and so the clip factor
  return std::sqrt(sum_of_squares(adapter.dense().grads) + experts.item<double>());
}

void gather_updated_values(AdapterState& adapter, MeshGroups& groups) {
  AdapterSection& experts = adapter.experts();
  if (groups.ep_fsdp->size() == 1 || experts.values.numel() == 0) return;
  const at::Tensor owned = experts.values.narrow(0, experts.owned_begin, experts.owned_size).clone();
  groups.ep_fsdp->all_gather_into_tensor(experts.values, owned);
}

}  // namespace moraine
