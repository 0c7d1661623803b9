#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "adapter/replica_check.h"
#include "adapter/save_layouts.h"
#include "adapter/server_rules.h"
#include "adapter/target_kind.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "distributed/collectives/device.h"
#include "distributed/collectives/from_rank0.h"
#include "distributed/control/stop_request.h"
#include "report/run_description.h"
#include "report/run_record.h"
#include "run/run_folder.h"
#include "run/run_inputs.h"
#include "text/rows/batch_stream.h"
#include "train/auto_choice.h"
#include "train/evaluate.h"
#include "train/load_report.h"
#include "train/micro_batch_tokens.h"
#include "train/run_log.h"
#include "train/snapshot.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kReplicaCheckEvery = 100;  // steps; the first and the end are looked at too

// The signal that any rank has been asked to end by, or 0: the same on all ranks.
int agreed_signal(int own, ProcessGroup& world, at::Device device) {
  at::Tensor number = at::full({1}, int64_t{own}, at::TensorOptions().dtype(at::kLong)).to(device);
  world.all_reduce(number, ReduceKind::kMax);
  return static_cast<int>(number.item<int64_t>());
}

// What a run on devices says of their memory at its end, of the ranks that needed the most; empty on the CPU.
std::string device_peak_of_ranks(at::Device device, MeshGroups& groups) {
  if (!device.is_cuda()) return "";
  const DevicePeak own = device_peak(device);
  at::Tensor most = at::tensor({static_cast<int64_t>(own.allocated), static_cast<int64_t>(own.reserved)}).to(device);
  groups.world->all_reduce(most, ReduceKind::kMax);
  most = most.to(at::kCPU);
  const auto value = [&](int64_t i) { return static_cast<uint64_t>(most[i].item<int64_t>()); };
  return in_words(DevicePeak{value(0), value(1)});
}

void print_data(const std::string& what, const DataRows& rows) {
  const bool is_packed = rows.size() < static_cast<int64_t>(rows.data.samples.size());
  log_info("{}: {}{}", what, in_words(rows.data), is_packed ? fmt::format(", packed into {}", rows.size()) : "");
}

void print_targets(const OpenedAdapter& adapter, const ModelLayout& layout) {
  log_info("adapter: r {}, lora_alpha {}", adapter.config.r, adapter.config.lora_alpha);
  log_info("  {:<32} {:>8} {:>6} {:>8} {:>8} {:>14}", "pattern", "matched", "r", "alpha", "scaling", "parameters");
  for (const auto& p : adapter.patterns)
    log_info("  {:<32} {:>8} {:>6} {:>8.6g} {:>8.4g} {:>14}", p.pattern, p.matched, p.r, p.lora_alpha, p.scaling,
             p.parameters);
  log_info("  {:<32} {:>8} {:>39}", "trainable", adapter.state.entries().size(), adapter.state.num_parameters());
  const std::vector<LoraModule> offered = layout.lora_modules();
  const std::vector<AdapterEntry>& entries = adapter.state.entries();
  const auto routers = std::count_if(offered.begin(), offered.end(), is_router);
  const auto trained = std::count_if(entries.begin(), entries.end(), [](const auto& e) { return is_router(e.module); });
  if (trained < routers) log_info("  {} of {} routers stay frozen", routers - trained, routers);
}

int64_t total_steps(const TrainConfig& config, int64_t rows, int64_t batch_size) {
  if (config.steps) return *config.steps;
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(config.epochs.value_or(1.0) * rows / batch_size)));
}

bool is_due(int64_t every, int64_t done) { return every > 0 && done % every == 0; }

bool updates_anything(const TrainConfig& config, int64_t steps) {
  for (int64_t step = 0; step < steps; ++step)
    if (scheduled_learning_rate(config, step, steps) > 0) return true;
  return false;
}

std::string how_to_go_on(const std::string& why, int64_t step, const Recipe& recipe) {
  return fmt::format("{}: stopped after step {}; {} to go on", why, step,
                     recipe.save.resume.kind == ResumeFrom::Kind::kAuto ? "start the same command again"
                                                                        : "start again with save.resume=auto");
}

}  // namespace

int train(const Recipe& asked, Control& control) {
  const auto started = std::chrono::system_clock::now();
  require_for_training(asked);
  const Recipe recipe = with_choices_made(asked, control);
  const WorldInfo& world = control.world();
  const bool is_writer = world.rank == 0;
  const RunFolder run(recipe.save.dir);
  std::error_code ignored;
  // Hours of loading come later; rank 0 writes only after all have loaded.
  if (recipe.save.resume.kind == ResumeFrom::Kind::kNever)
    run.check_unused("choose another folder, or save.resume: auto");

  // What is cheap to find wrong comes first: mesh, configuration, data, then weights.
  control.set_stage("read the data");
  RunGroups run_groups = make_run_groups(recipe, control);
  MeshGroups& groups = run_groups.groups;
  const OpenedCheckpoint checkpoint = open_run_checkpoint(recipe, groups);
  const ModelShape& shape = checkpoint.shape();
  check_router_loss(recipe, shape);
  expert_range(shape.num_experts, groups.mesh.ep, 0);  // refuses more ep ranks than experts
  const DataRows training = read_rows(recipe, "data.train", recipe.data.train, shape.vocab_size, groups);
  DataRows held_out;
  if (!recipe.data.eval.empty()) held_out = read_rows(recipe, "data.eval", recipe.data.eval, shape.vocab_size, groups);
  check_same_on_all_ranks(control, recipe, checkpoint, {{"data.train", &training}, {"data.eval", &held_out}});
  const std::string family = served_family(checkpoint.headers.config);
  if (recipe.save.layouts != SaveConfig{}.layouts) {
    from_rank0(groups, "save.layouts", [&] {  // which may be the only one that sees adapter.init_from
      check_save_layouts(recipe.save.layouts, family, checkpoint.layout(),
                         select_adapter(checkpoint.layout(), recipe.adapter, recipe.model.path));
      return std::string();
    });
  }
  const int64_t batch_size = recipe.train.batch_size.value_or(world.world_size);
  const int64_t steps = total_steps(recipe.train, training.size(), batch_size);
  const int64_t last_step = std::min(steps, recipe.train.stop_after.value_or(steps));
  Snapshots snapshots(recipe, run, control, groups, [&] {
    return run_facts(recipe, {checkpoint, training, steps, batch_size});
  });
  if (snapshots.is_finished()) {
    if (is_writer && !missing_save_layouts(recipe.save.layouts, run.adapter()).empty()) {
      const FileLock lock = run.prepare();
      write_save_layouts(recipe.save.layouts, family, checkpoint.layout(), run.adapter());
    }
    log_info("{} holds a finished run of this recipe: nothing to do (choose another save.dir to train again)",
             recipe.save.dir);
    return 0;
  }
  const int64_t first_step = snapshots.steps_done();
  if (is_writer && first_step == 0 && fs::exists(run.metrics(), ignored))
    log_info("{} holds an earlier run that left no snapshot: it begins anew, over that one", recipe.save.dir);
  if (first_step >= last_step && last_step < steps) {
    log_info("train.stop_after: {} steps are done already", first_step);
    return 0;
  }

  print_data("data", training);
  if (held_out.size() > 0) print_data("data.eval", held_out);
  control.set_stage("load");
  LoadedModel loaded = load_model(checkpoint, load_settings(recipe, world, run_groups.device), groups);
  check_recompute(recipe.train.recompute, loaded.weights->all_resident());
  if (world.distributed()) log_info("mesh: {}", groups.mesh.describe());
  if (loaded.device.is_cuda()) {
    log_info("device: {}{}", loaded.device.str(),
             groups.host_world
                 ? fmt::format(", NCCL communicators: {}", mesh_communicators(groups.mesh, world.rank).size())
                 : "");
  }
  log_info("model: {}, {} layers, {} experts, {}", checkpoint.headers.config.architecture(), shape.num_hidden_layers,
           shape.num_experts, dtype_name(shape.dtype));
  print_skipped(checkpoint.skipped);
  const std::vector<OrderedJson> load_reports = gather_load_reports(loaded.report, groups);
  if (is_writer) print_load_reports(load_reports);
  AdapterConfig wanted = recipe.adapter;
  std::optional<FolderFromRank0> init_from;
  if (recipe.load.mode == LoadMode::kRank0 && world.distributed() && !wanted.init_from.empty()) {
    init_from.emplace(groups, "adapter.init_from", wanted.init_from,
                      std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors"});
    wanted.init_from = init_from->path().string();
  }
  OpenedAdapter adapter =
      make_adapter(loaded.model->layout(), wanted, recipe.model.path, loaded.experts->local_experts(), loaded.device);
  adapter.state.shard_experts({groups.ep_fsdp->rank(), groups.ep_fsdp->size()});
  if (is_writer) warn_of_unmatched_targets(adapter.unmatched, recipe.adapter.init_from);
  print_targets(adapter, loaded.model->layout());

  std::optional<FileLock> lock;
  if (is_writer) {
    lock.emplace(run.prepare());
    run.write_recipe(recipe);
    run.write_load_report(load_reports);
  }

  TrainConfig train_config = recipe.train;
  if (train_config.micro_batch_tokens.kind == MicroBatchTokens::Kind::kAuto)
    train_config.micro_batch_tokens = auto_micro_batch_tokens(recipe, world, loaded, checkpoint, adapter.state, groups);
  const BatchStream stream(training.size(), batch_size, recipe.train.seed, recipe.data.shuffle);
  AdamW optimizer(adapter.state, recipe.train);
  snapshots.restore(adapter.state, optimizer);
  if (first_step > 0) log_info("going on after step {} of {}", first_step, steps);
  RunLog log(world, run, recipe.log, first_step, steps);
  std::optional<RunRecord> record;
  if (is_writer) {
    const DescribedRun described{recipe,   world,    groups.mesh,  checkpoint, loaded,    adapter,
                                 training, held_out, load_reports, steps,      batch_size};
    record.emplace(run.path(), describe_run(described), snapshots.facts(), started, first_step,
                   snapshots.resumed_from().string());
  }
  const auto evaluate_after = [&](int64_t done) {
    if (held_out.size() == 0) return;
    control.set_stage(fmt::format("evaluation after step {}", done));
    log.add(done, evaluate(loaded, adapter.state, held_out.all(), micro_batch_limit(train_config), groups));
  };
  {
    const StopRequest stop_request(
        recipe.save.every > 0 ? StopRequest::Armed::kYes : StopRequest::Armed::kNo,
        is_writer ? "asked to end: after this step and a snapshot (asked again: at once)" : "");
    for (int64_t step = first_step; step < last_step; ++step) {
      control.set_stage(fmt::format("step {}", step + 1));
      const auto start = std::chrono::steady_clock::now();
      if (step == first_step || step % kReplicaCheckEvery == 0) check_replicas(adapter.state, groups);
      const double learning_rate = scheduled_learning_rate(recipe.train, step, steps);
      const StepResult result = train_step(loaded, adapter.state, optimizer, training.at(stream.rows_of_step(step)),
                                           train_config, learning_rate, groups);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (step == 0 && is_writer && result.loss > std::log(static_cast<double>(shape.vocab_size)) + 2) {
        log_warning(fmt::format(
            "the first loss {:.2f} is far above ln(vocabulary) = {:.2f}: does the tokenizer belong to this model?",
            result.loss, std::log(static_cast<double>(shape.vocab_size))));
      }
      if (learning_rate > 0 && result.grad_norm == 0) {
        throw run_error(fmt::format("step {}", step + 1), "no gradient reached the adapter: nothing would change",
                        "check adapter.target_modules and the data's labels");
      }
      const int64_t done = step + 1;
      log.add({done, result, learning_rate, seconds});
      const int signal = recipe.save.every > 0 ? agreed_signal(stop_request.asked(), *groups.world, loaded.device) : 0;
      const bool ends_early = done < steps && (done == last_step || signal != 0);
      if (ends_early || is_due(recipe.save.every, done)) {
        log.sync();  // a snapshot's steps are in the file, whatever happens
        snapshots.save(done, adapter, optimizer);
        log.say("Saved snapshot " + snapshots.path_of(done).string());
        if (record && !ends_early) record->snapshot(done);
      }
      if (ends_early) {
        if (const std::string peak = device_peak_of_ranks(loaded.device, groups); !peak.empty()) log.say(peak);
        const std::string why = signal != 0 ? signal_name(signal) : "train.stop_after";
        if (record) log.say(record->end(done, why));
        log.say(how_to_go_on(why, done, recipe));
        return signal != 0 ? 128 + signal : 0;
      }
      if (done < steps && is_due(recipe.train.eval_every, done)) evaluate_after(done);
    }
  }
  control.set_stage("save");
  check_replicas(adapter.state, groups);
  if (is_writer) remove_save_layouts(recipe.save.layouts, run.adapter());
  // The first ep group holds every expert once, and rank 0 is its first rank.
  if (world.rank < groups.mesh.ep) {
    const WrittenAdapter written = export_adapter(adapter.state, adapter.config, run.adapter(), *groups.ep);
    if (record) record->saved(written.to_json());
    if (is_writer && updates_anything(recipe.train, steps)) warn_of_zero_b(written, run.adapter());
  }
  evaluate_after(steps);  // what it may run into costs no training any more
  if (is_writer) write_save_layouts(recipe.save.layouts, family, checkpoint.layout(), run.adapter());
  if (const std::string peak = device_peak_of_ranks(loaded.device, groups); !peak.empty()) log.say(peak);
  if (record) log.say(record->end(steps, "finished"));
  log.say("Saved final adapter to " + run.adapter().string());
  return 0;
}

}  // namespace moraine
