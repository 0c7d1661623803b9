// moraine verify: load as train would, prove every byte on every rank, and end.
#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/output.h"
#include "checkpoint/loaded_model.h"
#include "cli/cli.h"
#include "cli/run_on_ranks.h"
#include "run/run_inputs.h"
#include "train/load_report.h"

namespace moraine {
namespace {

void verify(const Recipe& recipe, Control& control, bool json) {
  if (recipe.model.path.empty()) throw input_error("model.path", "is missing", "say which checkpoint to load");
  control.set_stage("load");
  RunGroups run = make_run_groups(recipe, control);
  const OpenedCheckpoint checkpoint = open_run_checkpoint(recipe, run.groups);
  check_same_on_all_ranks(control, recipe, checkpoint);
  const LoadedWeights loaded = load_weights(checkpoint, load_settings(recipe, control.world()), run.groups);
  const std::vector<OrderedJson> reports = gather_load_reports(loaded.report, run.groups);
  if (control.world().rank != 0) return;
  if (json) {
    print_json(OrderedJson{{"ranks", reports}});
    return;
  }
  log_info("mesh: {}", run.groups.mesh.describe());
  print_skipped(checkpoint.skipped);
  print_load_reports(reports);
}

}  // namespace

int run_verify(const CommandArgs& args) {
  const auto recipe = [&] {
    Recipe read = read_recipe(args.recipe, args.overrides);
    read.dist.device = DeviceChoice::kCpu;  // bytes are proven in host memory
    read.dist.backend = BackendChoice::kGloo;
    return read;
  };
  return run_on_ranks(
      args, [&](int64_t) { recipe(); },
      [&](Control& control) {
        verify(recipe(), control, args.json);
        return 0;
      });
}

}  // namespace moraine
