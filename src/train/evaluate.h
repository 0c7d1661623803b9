// The loss on rows that are not trained.
#pragma once

#include <vector>

#include "adapter/adapter_state.h"
#include "checkpoint/loaded_model.h"
#include "distributed/collectives/mesh_groups.h"
#include "run/batch.h"
#include "text/rows/micro_batches.h"

namespace moraine {

struct EvalResult {
  double loss = 0;  // mean over the trained tokens of all rows; may be infinite or no number
  int64_t trained_tokens = 0;
  double seconds = 0;
};

// Forward passes over `rows` (the same on every rank), dealt to the ranks like a step's. All ranks of the world must
// call this. `rows` must hold a token to score.
EvalResult evaluate(LoadedModel& loaded, const AdapterState& adapter, const std::vector<TrainingRow>& rows,
                    const MicroBatchLimit& limit, MeshGroups& groups);

}  // namespace moraine
