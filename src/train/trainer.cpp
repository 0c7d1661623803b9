#include "train/trainer.h"

#include <cmath>
#include <optional>

#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "adapter/replica_check.h"
#include "base/bytes.h"
#include "base/error.h"
#include "base/log.h"
#include "data/batch_stream.h"
#include "data/packing.h"
#include "dist/from_rank0.h"
#include "train/load_report.h"
#include "train/metrics.h"
#include "train/run_folder.h"
#include "train/run_inputs.h"

namespace moraine {
namespace {

constexpr int64_t kReplicaCheckEvery = 100;  // steps; the first and the end are looked at too

void refuse_what_is_not_built(const Recipe& recipe) {
  auto refuse = [](const std::string& key, const std::string& hint) { throw input_error(key, "not built yet", hint); };
  if (!recipe.data.eval.empty()) refuse("data.eval", "leave it out, and use `moraine score` after the run");
  if (recipe.adapter.lora_dropout != 0) refuse("adapter.lora_dropout", "set it to 0");
  if (recipe.train.stop_after) refuse("train.stop_after", "leave it out");
  if (recipe.save.every != 0) refuse("save.every", "set it to 0: only the final adapter is saved");
  if (recipe.save.resume != "auto" && recipe.save.resume != "never") refuse("save.resume", "use auto or never");
}

// Rank 0's word, for other hosts may not see its folder.
bool rank0_finds_it_finished(Control& control, const RunFolder& run) {
  if (!control.world().distributed()) return run.is_finished();
  if (control.world().rank != 0) return control.wait_for("run/finished", "rank 0's look at save.dir", Patience::kWhileAlive) == "yes";
  const bool finished = run.is_finished();
  control.put("run/finished", finished ? "yes" : "no");
  return finished;
}

void print_data(const Dataset& data) {
  int64_t tokens = 0, longest = 0;
  for (const Sample& sample : data.samples) {
    tokens += static_cast<int64_t>(sample.input_ids.size());
    longest = std::max<int64_t>(longest, sample.input_ids.size());
  }
  log_info("data: {} rows, {} tokens, longest {}{}{}", data.samples.size(), tokens, longest,
           data.truncated ? fmt::format(", {} truncated", data.truncated) : "",
           data.dropped ? fmt::format(", {} dropped", data.dropped) : "");
}

void print_targets(const OpenedAdapter& adapter) {
  log_info("adapter: r {}, lora_alpha {}", adapter.config.r, adapter.config.lora_alpha);
  log_info("  {:<32} {:>8} {:>14}", "pattern", "matched", "parameters");
  for (const auto& pattern : adapter.patterns)
    log_info("  {:<32} {:>8} {:>14}", pattern.pattern, pattern.matched, pattern.parameters);
  log_info("  {:<32} {:>8} {:>14}", "trainable", adapter.state.entries().size(), adapter.state.num_parameters());
}

int64_t total_steps(const TrainConfig& config, int64_t rows, int64_t batch_size) {
  if (config.steps) return *config.steps;
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(config.epochs.value_or(1.0) * rows / batch_size)));
}

}  // namespace

void train(const Recipe& recipe, Control& control) {
  require_for_training(recipe);
  refuse_what_is_not_built(recipe);
  const WorldInfo& world = control.world();
  const bool is_writer = world.rank == 0;
  const RunFolder run(recipe.save.dir);
  if (recipe.save.resume == "auto" && rank0_finds_it_finished(control, run)) {
    log_info("{} holds a finished run: nothing to do (choose another save.dir to train again)", recipe.save.dir);
    return;
  }

  run.check_unused(recipe.save);  // hours of loading come later; rank 0 writes only after all have loaded

  // What is cheap to find wrong comes first: mesh, configuration, data, then weights.
  control.set_stage("read the data");
  RunGroups run_groups = make_run_groups(recipe, control);
  MeshGroups& groups = run_groups.groups;
  const CheckpointHeaders headers = read_run_headers(recipe, groups);
  const ModelShape shape = make_model(headers.config, recipe.model.dtype)->shape();
  expert_range(shape.num_experts, groups.mesh.ep, 0);  // refuses more ep ranks than experts
  const Dataset data = read_training_data(recipe, shape.vocab_size, groups);
  check_same_on_all_ranks(control, recipe, headers, &data);

  control.set_stage("load");
  LoadedModel loaded = open_model(headers, recipe.model.dtype, load_settings(recipe, world), groups);
  if (recipe.train.recompute == "none" && !loaded.weights->all_resident()) {
    throw input_error("train.recompute", "none needs every base weight on its rank, but this mesh shards them",
                      "use full, or give mesh.resident enough memory");
  }
  if (world.distributed()) log_info("mesh: {}", groups.mesh.describe());
  log_info("model: {}, {} layers, {} experts, {}", headers.config.architecture(), shape.num_hidden_layers, shape.num_experts,
           dtype_name(shape.dtype));
  const std::vector<OrderedJson> load_reports = gather_load_reports(loaded.report, groups);
  if (is_writer) print_load_reports(load_reports);
  print_data(data);
  AdapterConfig wanted = recipe.adapter;
  std::optional<FolderFromRank0> init_from;
  if (recipe.load.mode == "rank0" && world.distributed() && !wanted.init_from.empty()) {
    init_from.emplace(groups, "adapter.init_from", wanted.init_from,
                      std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors"});
    wanted.init_from = init_from->path().string();
  }
  OpenedAdapter adapter = make_adapter(loaded.model->layout(), wanted, recipe.model.path, loaded.experts->local_experts(),
                                       loaded.device);
  adapter.state.shard_experts({groups.ep_fsdp->rank(), groups.ep_fsdp->size()});
  print_targets(adapter);

  if (recipe.log.tensorboard) log_info("log.tensorboard: not built yet; metrics.jsonl holds every figure");
  if (is_writer) {
    run.prepare();
    run.write_recipe(recipe);
    run.write_load_report(load_reports);
  }

  const auto packed = recipe.data.packing ? pack_samples(data.samples, recipe.data.max_length) : one_sample_a_row(data.samples);
  if (recipe.data.packing) log_info("packing: {} rows of up to {} tokens", packed.size(), recipe.data.max_length);
  const int64_t batch_size = recipe.train.batch_size.value_or(world.world_size);
  const int64_t steps = total_steps(recipe.train, packed.size(), batch_size);
  const BatchStream stream(packed.size(), batch_size, recipe.train.seed, recipe.data.shuffle);
  AdamW optimizer(adapter.state, recipe.train);
  std::optional<MetricsFile> metrics;
  if (is_writer) metrics.emplace(run.metrics());
  {
    ProgressPrinter progress(steps, recipe.log.every);
    for (int64_t step = 0; step < steps; ++step) {
      control.set_stage(fmt::format("step {}", step + 1));
      const auto start = std::chrono::steady_clock::now();
      std::vector<TrainingRow> rows;
      for (int64_t row : stream.rows_of_step(step)) {
        TrainingRow& samples = rows.emplace_back();
        for (int64_t sample : packed[row]) samples.push_back(&data.samples[sample]);
      }
      if (step % kReplicaCheckEvery == 0) check_replicas(adapter.state, groups);
      const double learning_rate = scheduled_learning_rate(recipe.train, step, steps);
      const StepResult result = train_step(loaded, adapter.state, optimizer, rows, recipe.train, learning_rate, groups);
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (step == 0 && is_writer && result.loss > std::log(static_cast<double>(shape.vocab_size)) + 2) {
        log_warning(fmt::format("the first loss {:.2f} is far above ln(vocabulary) = {:.2f}: does the tokenizer belong to this model?",
                                result.loss, std::log(static_cast<double>(shape.vocab_size))));
      }
      if (learning_rate > 0 && result.grad_norm == 0) {
        throw run_error(fmt::format("step {}", step + 1), "no gradient reached the adapter: nothing would change",
                        "check adapter.target_modules and the data's labels");
      }
      if (!is_writer) continue;
      metrics->append({step + 1, result, learning_rate, seconds});
      progress.print({step + 1, result, learning_rate, seconds});
    }
  }
  control.set_stage("save");
  check_replicas(adapter.state, groups);
  // The first ep group holds every expert once, and rank 0 is its first rank.
  if (world.rank < groups.mesh.ep) export_adapter(adapter.state, adapter.config, run.adapter(), *groups.ep);
  log_info("Saved final adapter to {}", run.adapter().string());
}

}  // namespace moraine
