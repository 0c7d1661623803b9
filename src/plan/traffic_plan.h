// What travels between ranks: in a step, and while loading.
//
// Counted as bytes that ranks receive, by the algorithms in use: an all-gather passes parts round a ring (Gloo's;
// NCCL's too), an all-to-all goes straight from each rank to each, a sum is an all-to-all of parts and an all-gather of
// their sums (ProcessGroup::all_reduce_in_rank_order).
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "plan/rank_group.h"

namespace moraine {

// Of one optimizer step, once the gather buffers are warm. Counts of experts' rows, losses and norms are left out: they
// are thousands of times smaller.
struct StepTraffic {
  NetworkBytes image_gathers;       // base weights
  NetworkBytes token_exchange;      // rows to experts and back, and their gradients
  NetworkBytes gradient_reduction;  // adapters' gradients
  NetworkBytes updated_values;      // experts' adapters that other ranks updated
  NetworkBytes total() const {
    NetworkBytes sum = image_gathers;
    return ((sum += token_exchange) += gradient_reduction) += updated_values;
  }
};

class StepTrafficPlanner {
 public:
  // Both outlive the planner.
  StepTrafficPlanner(const PlannedModel& model, const PlannedRun& run) : model_(model), run_(run) {}
  // What `rank` receives.
  StepTraffic of(int64_t rank);

 private:
  // What depends only on how many experts a rank holds.
  struct Sizes {
    double dense_shards = 0, expert_shards = 0;     // bytes of the shards whose images are gathered in a micro-step
    int64_t dense_elements = 0, owned_experts = 0;  // of the adapter
  };
  const Sizes& sizes_of(ExpertRange experts);

  const PlannedModel& model_;
  const PlannedRun& run_;
  std::map<int64_t, Sizes> sizes_;  // by number of experts
};

// What `rank` reads from the checkpoint in load.mode: direct, and what it receives in the other modes.
struct RankReads {
  uint64_t dense = 0, experts = 0;  // root and dense images; expert images
  uint64_t total() const { return dense + experts; }
};
// Of every rank. Each distinct shard is planned once.
std::vector<RankReads> plan_reads_of_ranks(const PlannedModel& model, const PlannedRun& run);

// Bytes that each rank reads from storage under run.load_mode.
std::vector<uint64_t> bytes_read_by_mode(const std::vector<RankReads>& reads, const PlannedRun& run);

struct LoadTraffic {
  NetworkBytes direct;  // nothing
  NetworkBytes node;    // what each node's reader passes on
  NetworkBytes rank0;   // what rank 0 passes on
};
// Of the whole world. Verification reads again, but sends nothing.
LoadTraffic plan_load_traffic(const std::vector<RankReads>& reads, const PlannedRun& run);

}  // namespace moraine
