#include "train/snapshot.h"

#include <fmt/format.h>

#include "adapter/adapter_tensors.h"
#include "adapter/peft_export.h"
#include "adapter/replica_check.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/tensor_file.h"
#include "distributed/collectives/from_rank0.h"
#include "report/run_record.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr const char kAdapterFolder[] = "adapter", kAdapterFile[] = "adapter/adapter_model.safetensors",
                     kMomentsFile[] = "optimizer.safetensors";
constexpr char kFinished[] = "finished";
constexpr const char* kMoments[] = {".exp_avg", ".exp_avg_sq"};

at::Tensor moment(AdapterState& state, const AdamW& optimizer, const AdapterTensor& tensor, int which) {
  const LoraModule& module = state.entries()[tensor.entry].module;
  const bool is_experts = tensor.is_a ? module.has_expert_a() : module.has_expert_b();
  const AdamW::Moments& moments = optimizer.moments_of(is_experts ? state.experts() : state.dense());
  return which == 0 ? moments.exp_avg : moments.exp_avg_sq;
}

at::Tensor read_whole(const SafetensorsHeader& header, const std::string& name, const std::vector<int64_t>& shape) {
  const SafetensorsEntry* entry = header.find(name);
  if (!entry || entry->dtype != DType::kF32 || entry->shape != shape)
    throw input_error(header.path.string(), "tensor " + name + " is missing or of another shape",
                      "the snapshot is of another adapter");
  return read_tensor(header, *entry);
}

}  // namespace

Snapshots::Snapshots(const Recipe& recipe, const RunFolder& run, Control& control, MeshGroups& groups,
                     const std::function<RunFacts()>& make_facts)
    : control_(control), groups_(groups), folder_(run.checkpoints()), keep_(recipe.save.keep) {
  const std::string steps = from_rank0(groups, "snapshot to go on from", [&] {
    facts_ = make_facts();
    if (recipe.save.resume.kind == ResumeFrom::Kind::kAuto && run.is_finished()) {
      const RunFacts then = facts_of_finished(run);
      if (const auto error = first_difference(facts_, then, run.path().string())) throw *error;
      warn_of_changes_without_effect(facts_, then, run.path().string());
      return std::string(kFinished);
    }
    found_ = find(recipe.save, run);
    if (!found_) return std::string("0");
    const RunFacts then = RunFacts::from_json(found_->state);
    if (const auto error = first_difference(facts_, then, found_->folder.string())) throw *error;
    return fmt::format("{}", found_->step);
  });
  finished_ = steps == kFinished;
  if (!finished_) steps_done_ = std::stoll(steps);
}

// Runs of earlier versions have them in their snapshots alone, which may be of any step: a run goes on only as what it
// was.
RunFacts Snapshots::facts_of_finished(const RunFolder& run) const {
  if (auto facts = recorded_facts(run.path())) return *facts;
  if (const auto snapshot = folder_.newest()) return RunFacts::from_json(snapshot->state);
  throw input_error(
      "save.dir",
      run.path().string() + " holds a finished run that does not say what it was about: it may be another one",
      "choose another save.dir to train; moraine report shows what is known of that run");
}

std::optional<Snapshot> Snapshots::find(const SaveConfig& config, const RunFolder& run) const {
  if (config.resume.kind == ResumeFrom::Kind::kNever) return std::nullopt;
  if (config.resume.kind == ResumeFrom::Kind::kAuto) return folder_.newest();
  fs::path wanted = fs::absolute(config.resume.folder).lexically_normal();
  if (!wanted.has_filename()) wanted = wanted.parent_path();  // ended in a slash
  std::optional<Snapshot> found;
  std::error_code none;
  if (fs::is_directory(wanted / "checkpoints", none)) {
    const SnapshotFolder other(wanted / "checkpoints");
    found = fs::equivalent(wanted / "checkpoints", run.checkpoints(), none) ? folder_.newest() : other.newest();
  } else if (fs::is_directory(wanted, none) && !fs::exists(wanted / "recipe.yaml", none)) {  // no run without snapshots
    found = open_snapshot(wanted);  // says what is wrong with it
  }
  if (!found)
    throw input_error("save.resume", config.resume.folder + " holds no snapshot",
                      "auto, never, or the folder of a snapshot or of a run");
  // From a run's own past it may go on only where nothing would be overwritten.
  if (!fs::equivalent(found->folder.parent_path(), run.checkpoints(), none)) {
    run.check_unused(
        "save.resume: auto goes on from save.dir's own snapshots; to begin from another run's, choose an empty "
        "save.dir");
  } else if (run.is_finished() || folder_.has_later(found->step)) {
    throw input_error("save.resume", fmt::format("save.dir holds what came after {}", found->folder.string()),
                      "choose another save.dir, or remove the later snapshots and the final adapter");
  }
  return found;
}

void Snapshots::restore(AdapterState& adapter, AdamW& optimizer) const {
  if (steps_done_ == 0) return;
  SafetensorsHeader values, moments;
  if (is_writer()) {
    values = read_safetensors_header(found_->folder / kAdapterFile);
    moments = read_safetensors_header(found_->folder / kMomentsFile);
  }
  for (const AdapterTensor& tensor : adapter_tensors(adapter)) {
    const auto part_of = [&](const SafetensorsHeader& header, const std::string& name) {
      return distribute(adapter, tensor, is_writer() ? read_whole(header, name, tensor.shape) : at::Tensor(), groups_);
    };
    local_values(adapter, tensor).copy_(part_of(values, tensor.name));
    for (int which : {0, 1}) {
      const at::Tensor part = part_of(moments, tensor.name + kMoments[which]);
      keep_owned(adapter, tensor, part, moment(adapter, optimizer, tensor, which));
    }
  }
  optimizer.set_num_steps(steps_done_);
}

// The adapter comes from the first ep group, and moments from the ranks of the first replica through the first of those
// that hold the same experts. On ranks other than 0 `folder` does not count.
void Snapshots::write_files(int64_t steps, const fs::path& folder, OpenedAdapter& adapter,
                            const AdamW& optimizer) const {
  const bool in_first_ep_group = groups_.world->rank() < groups_.mesh.ep;
  const bool in_first_replica = groups_.world->rank() < groups_.mesh.replica_size();
  if (is_writer()) fs::create_directory(folder / kAdapterFolder);
  if (in_first_ep_group) write_adapter_files(adapter.state, adapter.config, folder / kAdapterFolder, *groups_.ep);
  if (!in_first_replica) return;
  const std::vector<AdapterTensor> tensors = adapter_tensors(adapter.state);
  std::optional<TensorFileWriter> file;
  if (is_writer()) {
    std::vector<TensorFileWriter::Declared> declared;
    for (const AdapterTensor& tensor : tensors)
      for (const char* name : kMoments) declared.push_back({tensor.name + name, tensor.shape});
    file.emplace(folder / kMomentsFile, declared);
  }
  // Hashing and flushing the adapter may take long: the others wait in no collective.
  if (control_.world().distributed()) {
    const std::string written = fmt::format("snapshot/{}/adapter", steps);
    if (is_writer()) {
      control_.put(written, "written");
    } else {
      control_.wait_for(written, "rank 0's disk", Patience::kWhileAlive);
    }
  }
  for (const AdapterTensor& tensor : tensors) {
    for (int which : {0, 1}) {
      const at::Tensor owned = moment(adapter.state, optimizer, tensor, which);
      const at::Tensor part = collect_owned(adapter.state, tensor, owned, *groups_.ep_fsdp);
      if (!in_first_ep_group) continue;
      const at::Tensor whole = collect(adapter.state, tensor, part, *groups_.ep);
      if (file) file->append(whole);
    }
  }
  if (file) file->finish();
}

void Snapshots::save(int64_t steps, OpenedAdapter& adapter, const AdamW& optimizer) {
  control_.set_stage(fmt::format("snapshot of step {}", steps));
  check_replicas(adapter.state, groups_);
  if (is_writer()) {
    const fs::path folder = folder_.path_of(steps);
    try {
      write_folder_atomic(folder, [&](const fs::path& temporary) {
        write_files(steps, temporary, adapter, optimizer);
        write_snapshot_state(temporary, steps, facts_.to_json());
      });
    } catch (const Error& error) {
      if (!error.where.starts_with(folder.string())) throw;  // those of other ranks
      throw run_error(folder.string(), error.message,
                      "earlier snapshots are as they were; make room, then start again to go on from the newest");
    }
    folder_.remove_old(steps, keep_);
  } else {
    write_files(steps, {}, adapter, optimizer);
  }
  // Until all is on disk the others wait here, in no collective.
  control_.barrier(fmt::format("snapshot/{}", steps), Patience::kWhileAlive);
}

}  // namespace moraine
