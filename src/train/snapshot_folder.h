// The folder of a run's snapshots, save.dir/checkpoints: which there are, whether one is whole, which may go. Rank 0
// only; nothing here knows what a snapshot's tensors are.
//
//   checkpoints/step-8/adapter/              the adapter after 8 steps, as PEFT reads it: fp32, the very values that
//   training changes
//                      optimizer.safetensors AdamW's moments, NAME.exp_avg and NAME.exp_avg_sq by the adapter's names,
//                      in its layout state.json            written last: what run this is of, and hashes of the other
//                      files
//
// A snapshot comes to its name by a rename, so it is whole or not there; the hashes are for storage that does not keep
// what it was given.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace moraine {

inline constexpr char kSnapshotState[] = "state.json";

struct Snapshot {
  std::filesystem::path folder;
  int64_t step = 0;  // completed steps
  OrderedJson state;
};

// Finishes a snapshot: hashes the files in `folder` and writes state.json, with `state`'s own keys. `folder` is still
// under a temporary name.
void write_snapshot_state(const std::filesystem::path& folder, int64_t step, const OrderedJson& state);

// Reads state.json and every byte of the other files. Throws an input error that says what is wrong: missing, cut
// short, changed, or written by a version that this one does not know.
Snapshot open_snapshot(const std::filesystem::path& folder);

class SnapshotFolder {
 public:
  explicit SnapshotFolder(const std::filesystem::path& folder) : folder_(folder) {}

  std::filesystem::path path_of(int64_t step) const;
  // Steps of what lies there under a snapshot's name, whole or not, the newest first.
  std::vector<int64_t> steps() const;
  // Whether there is one later than `step`, damaged ones that newest() found not counted.
  bool has_later(int64_t step) const;

  // The newest whole one; nullopt when there is none under any name. Warns of every newer one that is damaged, and
  // throws an input error when all are: to begin anew would not be what was asked for.
  std::optional<Snapshot> newest() const;

  // After `step` has been written: removes what is older than the `keep` newest up to it. What newest() found damaged
  // counts for nothing.
  void remove_old(int64_t step, int64_t keep) const;

 private:
  std::filesystem::path folder_;
  mutable std::vector<int64_t> damaged_;
};

}  // namespace moraine
