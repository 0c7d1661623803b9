#include "plan/traffic_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "checkpoint/plan.h"
#include "plan/transfer_plan.h"

namespace moraine {
namespace {

NetworkBytes token_exchange(const PlannedModel& model, const PlannedRun& run, int64_t rank) {
  const RankGroup ep(run, MeshAxis::kEp, rank);
  if (ep.size() == 1) return {};
  const ModelShape& shape = model.shape;
  const double row = static_cast<double>(shape.hidden_size) * dtype_bits(shape.dtype) / 8;
  // Passes over a layer's exchange: forwards, again when it is recomputed, and the gradients'.
  double passes = 0;
  for (int64_t layer = 0; layer < shape.num_hidden_layers; ++layer) {
    if (model.sizes[experts_image(layer)].params.empty()) continue;
    passes += layer < model.first_adapted_layer() ? 1 : run.recompute ? 3 : 2;
  }
  auto share_of = [&](int64_t index) {
    return static_cast<double>(expert_range(shape.num_experts, ep.size(), index).count) / shape.num_experts;
  };
  auto rows_of = [&](int64_t peer) {
    return static_cast<double>(run.sequences_a_step(peer)) * run.max_length * shape.num_experts_per_tok;
  };
  const int64_t own = run.mesh.group_rank(MeshAxis::kEp, rank);
  NetworkBytes bytes;
  for (int64_t index = 0; index < ep.size(); ++index) {
    if (index == own) continue;
    const int64_t peer = ep.rank_at(index);
    // Its tokens for this rank's experts, and this rank's tokens back from its experts.
    const double received = passes * row * (rows_of(peer) * share_of(own) + rows_of(rank) * share_of(index));
    (run.node_of(peer) == run.node_of(rank) ? bytes.within_node : bytes.between_nodes) += received;
  }
  return bytes;
}

}  // namespace

const StepTrafficPlanner::Sizes& StepTrafficPlanner::sizes_of(ExpertRange experts) {
  const auto [known, is_new] = sizes_.try_emplace(experts.count);
  if (!is_new) return known->second;
  Sizes& sizes = known->second;
  // The root stays in its buffer for good.
  for (const TurnTransfers& turn : transfers_of_micro_step(model_, run_, experts)) {
    for (const Transfers* transfers : {&turn.before, &turn.during}) {
      sizes.dense_shards += transfers->dense_shards;
      sizes.expert_shards += transfers->expert_shards;
    }
  }
  const AdapterLayout adapter = lay_out_adapter(model_.targets, experts);
  sizes.dense_elements = adapter.dense_size;
  sizes.owned_experts = section_part_size(adapter.expert_size, run_.mesh.ep_fsdp);
  return sizes;
}

StepTraffic StepTrafficPlanner::of(int64_t rank) {
  const Mesh& mesh = run_.mesh;
  const Sizes& sizes = sizes_of(expert_range(model_.shape.num_experts, mesh.ep, mesh.group_rank(MeshAxis::kEp, rank)));
  const double micro_steps = run_.micro_steps();
  StepTraffic traffic;
  traffic.image_gathers = RankGroup(run_, MeshAxis::kFsdp, rank).all_gather(sizes.dense_shards * micro_steps);
  traffic.image_gathers += RankGroup(run_, MeshAxis::kEpFsdp, rank).all_gather(sizes.expert_shards * micro_steps);
  traffic.token_exchange = token_exchange(model_, run_, rank);
  traffic.gradient_reduction = RankGroup(run_, MeshAxis::kWorld, rank).all_reduce(sizes.dense_elements);
  traffic.gradient_reduction +=
      RankGroup(run_, MeshAxis::kExpertPeers, rank).all_reduce(sizes.owned_experts * mesh.ep_fsdp);
  traffic.updated_values =
      RankGroup(run_, MeshAxis::kEpFsdp, rank).all_gather(static_cast<double>(sizes.owned_experts) * kFloat);
  return traffic;
}

std::vector<RankReads> plan_reads_of_ranks(const PlannedModel& model, const PlannedRun& run) {
  const Mesh& mesh = run.mesh;
  const std::vector<ImageSpec>& specs = model.checkpoint.specs;
  const Placement placement(specs, model.shape.num_experts, mesh);
  std::map<int64_t, uint64_t> dense_reads;                       // by place in the fsdp group
  std::map<std::pair<int64_t, int64_t>, uint64_t> expert_reads;  // by EP index and place in the ep_fsdp group
  auto read_bytes = [&](int64_t rank, bool experts) {
    std::vector<ShardPlan> shards;
    for (size_t i = 0; i < specs.size(); ++i) {
      const MeshAxis axis = shard_axis(specs[i].kind);
      if ((specs[i].kind == ImageKind::kExperts) != experts) continue;
      const LayerImage& image = placement.image(i, rank);
      shards.push_back({&image, shard_of_image(image, mesh.group_size(axis), mesh.group_rank(axis, rank))});
    }
    return plan_reads(shards, model.checkpoint.headers.index).read_bytes;
  };
  std::vector<RankReads> reads;
  for (int64_t rank = 0; rank < mesh.world_size(); ++rank) {
    const int64_t dense_key = mesh.group_rank(MeshAxis::kFsdp, rank);
    const std::pair expert_key{mesh.group_rank(MeshAxis::kEp, rank), mesh.group_rank(MeshAxis::kEpFsdp, rank)};
    if (!dense_reads.contains(dense_key)) dense_reads[dense_key] = read_bytes(rank, false);
    if (!expert_reads.contains(expert_key)) expert_reads[expert_key] = read_bytes(rank, true);
    reads.push_back({dense_reads[dense_key], expert_reads[expert_key]});
  }
  return reads;
}

std::vector<uint64_t> bytes_read_by_mode(const std::vector<RankReads>& reads, const PlannedRun& run) {
  std::vector<uint64_t> bytes(reads.size(), 0);
  std::set<std::pair<int64_t, int64_t>> dense_seen;  // reader, shard: what several of its ranks hold is read once
  std::set<std::tuple<int64_t, int64_t, int64_t>> experts_seen;
  for (int64_t rank = 0; rank < static_cast<int64_t>(reads.size()); ++rank) {
    if (run.load_mode == LoadMode::kDirect) {
      bytes[rank] = reads[rank].total();
      continue;
    }
    const int64_t reader = run.load_mode == LoadMode::kNode ? run.node_of(rank) * run.ranks_per_node : 0;
    const Mesh& mesh = run.mesh;
    if (dense_seen.emplace(reader, mesh.group_rank(MeshAxis::kFsdp, rank)).second) bytes[reader] += reads[rank].dense;
    if (experts_seen.emplace(reader, mesh.group_rank(MeshAxis::kEp, rank), mesh.group_rank(MeshAxis::kEpFsdp, rank))
            .second)
      bytes[reader] += reads[rank].experts;
  }
  return bytes;
}

LoadTraffic plan_load_traffic(const std::vector<RankReads>& reads, const PlannedRun& run) {
  LoadTraffic traffic;
  for (int64_t rank = 1; rank < static_cast<int64_t>(reads.size()); ++rank) {
    const double bytes = static_cast<double>(reads[rank].total());
    if (rank % run.ranks_per_node != 0) traffic.node.within_node += bytes;
    (run.node_of(rank) == 0 ? traffic.rank0.within_node : traffic.rank0.between_nodes) += bytes;
  }
  return traffic;
}

}  // namespace moraine
