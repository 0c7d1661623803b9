// Ranks that train goldens on the test device, over Gloo. device_worker RANKS EP FSDP OFFLOAD GOLDEN: losses must
// be the reference's, and nothing may be left unordered between streams. Prints "GOLDEN: trained".
#include <fmt/format.h>

#include "adapter/open_adapter.h"
#include "adapter/peft_export.h"
#include "adapter/replica_check.h"
#include "base/cpu_features.h"
#include "base/process.h"
#include "checkpoint/loaded_model.h"
#include "device/device_gloo.h"
#include "device/device_streams.h"
#include "device/test_device.h"
#include "distributed/collectives/backend_hook.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"
#include "golden.h"
#include "train/step.h"

namespace moraine {
namespace {

constexpr int64_t kSteps = 2;

// How far losses may be from the reference's.
double limit_of(const std::string& golden) {
  const size_t end = golden.rfind('-');
  const Json& curves = testing_support::families()[golden.substr(0, end)]["curves"];
  return curves[golden.substr(end + 1) == "fp32" ? "fp32 first steps" : "bf16"][0];
}

void train_golden(const std::string& name, Offload offload, MeshGroups& groups) {
  const std::filesystem::path folder = golden_folder(name);
  const c10::Device device = testing_support::registered_device();
  const OpenedCheckpoint checkpoint = open_checkpoint(folder / "model", DtypeChoice::kAuto);
  LoadedModel loaded = load_model(checkpoint, {.device = device, .offload = offload}, groups);
  OpenedAdapter adapter =
      open_adapter(loaded.model->layout(), folder / "lora" / "adapter", loaded.experts->local_experts(), device);
  adapter.state.shard_experts({groups.ep_fsdp->rank(), groups.ep_fsdp->size()});
  TrainConfig config;
  config.learning_rate = 1e-3;
  config.weight_decay = 0.01;
  config.warmup_steps = 2;
  AdamW optimizer(adapter.state, config);
  const Json steps = read_json_file(folder / "lora" / "train.json")["steps"];
  for (int64_t step = 0; step < kSteps; ++step) {
    const TokensFile batch = golden_batch(folder / "lora" / "train_batches.safetensors", fmt::format("{}.", step % 3));
    std::vector<TrainingRow> rows;
    for (const Sample& sample : batch.samples) rows.push_back({&sample});
    const double learning_rate = scheduled_learning_rate(config, step, static_cast<int64_t>(steps.size()));
    const double loss = train_step(loaded, adapter.state, optimizer, rows, config, learning_rate, groups).loss;
    const double expected = steps[step]["loss"];
    if (!(std::abs(loss - expected) <= limit_of(name)))
      throw run_error(name, fmt::format("loss {} of step {}, the reference's is {}", loss, step, expected));
  }
  check_replicas(adapter.state, groups);
  for (const auto& [tensor, value] : peft_tensors(adapter.state, AdapterPart::kValues, *groups.ep))
    if (!value.isfinite().all().item<bool>()) throw run_error(name, tensor + " is not finite");
}

int run(Control& control, const std::vector<std::string>& args) {
  const WorldInfo& world = control.world();
  set_backend_hook(&testing_support::gloo_on_test_device);
  BackendFactory backends(world, BackendKind::kGloo, control.timeout(), testing_support::registered_device());
  MeshGroups groups = make_mesh_groups(
      control, backends,
      Mesh::make(world.world_size, {.ep = std::stoll(args.at(2)), .fsdp = std::stoll(args.at(3)), .replicate = {}}));
  const Offload offload = args.at(4) == "all"    ? Offload::kAll
                          : args[4] == "experts" ? Offload::kExperts
                                                 : Offload::kNone;
  const std::string& golden = args.at(5);
  train_golden(golden, offload, groups);
  for (const std::string& fault : testing_support::take_faults()) throw run_error(golden, fault);
  control.barrier("trained");
  if (world.rank == 0) fmt::print("{}: trained\n", golden);
  return 0;
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  using namespace moraine;
  make_write_failures_errors();
  settle_cpu_computation();
  const std::vector<std::string> args(argv, argv + argc);
  const auto rank = [&] {
    return run_rank(world_from_environment(), ControlOptions::from_environment(),
                    [&](Control& control) { return run(control, args); });
  };
  end_process(run_local_ranks(std::stoll(args.at(1)), rank));
}
