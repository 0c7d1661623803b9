// What loading read, received and proved, rank by rank: load.json and a few lines for the user.
#pragma once

#include <vector>

#include "base/json.h"
#include "checkpoint/check_checkpoint.h"
#include "checkpoint/load.h"
#include "distributed/collectives/mesh_groups.h"

namespace moraine {

// One object per rank (DESIGN.md, load.json), by rank; empty on ranks other than 0. All ranks of the world must call
// this.
std::vector<OrderedJson> gather_load_reports(const LoadReport& own, MeshGroups& groups);

// What the checkpoint holds and nobody loads, a line for each reason.
void print_skipped(const std::vector<SkippedTensor>& skipped);

// Totals of all ranks: what was read, how fast, what travelled, whether it was proved.
void print_load_reports(const std::vector<OrderedJson>& reports);

}  // namespace moraine
