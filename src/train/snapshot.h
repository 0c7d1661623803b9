// Snapshots of a run: all that training changes, from which a run goes on bit for bit, on another mesh too.
//
// That is the adapter's fp32 values, AdamW's two moments and the number of completed steps. What else a step depends on
// follows from that number: its rows (BatchStream is a function of seed and step), its learning rate. Tensors are saved
// whole, under PEFT's names and in its layout, so nothing in a snapshot shows a mesh. Only rank 0 sees the folder:
// tensors travel one at a time.
#pragma once

#include <functional>
#include <optional>

#include "adapter/open_adapter.h"
#include "adapter/optimizer.h"
#include "config/recipe.h"
#include "distributed/collectives/mesh_groups.h"
#include "run/resume_check.h"
#include "run/run_folder.h"
#include "train/snapshot_folder.h"

namespace moraine {

// All ranks of the world make one and call its functions together.
class Snapshots {
 public:
  // Finds the snapshot that save.resume means and that fits this run, whose facts `make_facts` gives on rank 0. Throws
  // input errors, also where a run would overwrite another one, and where save.dir holds another run's end.
  Snapshots(const Recipe& recipe, const RunFolder& run, Control& control, MeshGroups& groups,
            const std::function<RunFacts()>& make_facts);

  // Whether save.dir holds the end of this very run: there is nothing to train.
  bool is_finished() const { return finished_; }
  // What the run is about; rank 0 only.
  const RunFacts& facts() const { return facts_; }
  // Steps that the snapshot holds; 0 = this run is at its beginning.
  int64_t steps_done() const { return steps_done_; }
  // Its folder; empty without one, and on ranks other than 0.
  std::filesystem::path resumed_from() const { return found_ ? found_->folder : std::filesystem::path(); }
  // Fills `adapter` and `optimizer` (of the recipe) from the snapshot, if there is one.
  void restore(AdapterState& adapter, AdamW& optimizer) const;

  // Writes checkpoints/step-`steps`, then removes what save.keep no longer wants. Throws a run error, and then nothing
  // has changed, when the disk is full or copies of the adapter differ between ranks. Returns when the snapshot is on
  // disk.
  void save(int64_t steps, OpenedAdapter& adapter, const AdamW& optimizer);
  std::filesystem::path path_of(int64_t steps) const { return folder_.path_of(steps); }

 private:
  RunFacts facts_of_finished(const RunFolder& run) const;
  std::optional<Snapshot> find(const SaveConfig& config, const RunFolder& run) const;
  void write_files(int64_t steps, const std::filesystem::path& folder, OpenedAdapter& adapter,
                   const AdamW& optimizer) const;
  bool is_writer() const { return groups_.world->rank() == 0; }

  Control& control_;
  MeshGroups& groups_;
  SnapshotFolder folder_;
  int64_t keep_;
  RunFacts facts_;                 // rank 0
  std::optional<Snapshot> found_;  // rank 0
  int64_t steps_done_ = 0;
  bool finished_ = false;
};

}  // namespace moraine
