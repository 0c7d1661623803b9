// moraine plan: what a run would read, hold and send.
#include <fmt/format.h>

#include <numeric>

#include "base/bytes.h"
#include "base/error.h"
#include "base/output.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/plan_report.h"
#include "plan/micro_batch_plan.h"
#include "plan/plan_advice.h"
#include "run/run_inputs.h"

namespace moraine {
namespace {

constexpr int64_t kMostRanks = 1 << 16;

int64_t world_size(const CommandArgs& args, const MeshConfig& mesh, bool given) {
  const int64_t world = given ? args.world : smallest_world(mesh);
  const std::string where = given ? "--world" : "mesh";
  if (world < 1) throw input_error(where, fmt::format("{} is not 1 or more", world));
  if (world > kMostRanks) {
    throw input_error(where, fmt::format("{} ranks are more than can be planned", world),
                      fmt::format("at most {}", kMostRanks));
  }
  return world;
}

int64_t ranks_per_node(const CommandArgs& args, int64_t world, bool given) {
  if (!given) {
    for (int64_t ranks = std::min<int64_t>(world, 8);; --ranks)
      if (world % ranks == 0) return ranks;
  }
  if (args.ranks_per_node < 1)
    throw input_error("--ranks-per-node", fmt::format("{} is not 1 or more", args.ranks_per_node));
  if (world % args.ranks_per_node != 0) {
    throw input_error("--ranks-per-node", fmt::format("{} does not divide the world of {}", args.ranks_per_node, world),
                      "nodes have as many ranks each; --world says how many there are");
  }
  return args.ranks_per_node;
}

std::optional<uint64_t> memory_limit(const std::string& text) {
  if (text.empty()) return std::nullopt;
  const auto bytes = parse_bytes(text);
  if (!bytes || *bytes == 0)
    throw input_error("--memory-per-rank", quote_text(text) + " is no size", "for example 80GiB or 512MB");
  return bytes;
}

// The recipe's run on the device that --device names, if it does.
PlannedRun run_on_device(const CommandArgs& args, PlannedRun run) {
  if (!args.device.empty()) run.rates = parse_device("--device", args.device);
  if (const auto limit = memory_limit(args.memory_per_rank)) run.rates.memory = *limit;
  return run;
}

}  // namespace

int run_plan(const CommandArgs& args) {
  const bool world_given = args.world != kNotGiven, node_given = args.ranks_per_node != kNotGiven;
  PlanVerdict verdict{memory_limit(args.memory_per_rank), {}, {}};
  Recipe recipe = read_recipe(args.recipe, args.overrides);
  if (!args.device.empty())
    recipe.dist.device = parse_device("--device", args.device).is_gpu ? DeviceChoice::kCuda : DeviceChoice::kCpu;
  const int64_t world = world_size(args, recipe.mesh, world_given);
  const int64_t a_node = ranks_per_node(args, world, node_given);
  const OpenedCheckpoint checkpoint = open_planned_checkpoint(recipe);
  check_router_loss(recipe, checkpoint.shape());
  const PlannedModel model = planned_model(recipe, checkpoint);
  PlannedRun run = run_on_device(args, planned_run(recipe, model, world, a_node));
  StepPrediction prediction;
  const bool decides = leaves_choices(recipe);
  if (decides || !args.device.empty())
    prediction.options = run_options(model, run, decides ? freedom_of(recipe) : Freedom{.mesh = true});
  if (decides) {
    run = prediction.options.front().run;
    prediction.decision = reason_of(prediction.options);
  }
  if (!args.device.empty() && !verdict.memory_per_rank && run.rates.memory > 0)
    verdict.memory_per_rank = run.rates.memory;
  if (recipe.train.micro_batch_tokens.kind == MicroBatchTokens::Kind::kAuto)
    run.micro_batch_tokens = plan_micro_batch_tokens(model, run, verdict.memory_per_rank).tokens;
  const RunPlan plan = plan_run(model, run);
  if (!args.device.empty()) prediction.time = predict_step(model, run);
  if (verdict.memory_per_rank) {
    verdict.fits = plan.peak <= *verdict.memory_per_rank;
    if (!*verdict.fits) verdict.advice = plan_advice(model, plan.run, *verdict.memory_per_rank);
  }
  if (args.json)
    print_json(plan_json(model, plan, verdict, prediction));
  else
    print_result(for_terminal(plan_tables(model, plan, verdict, prediction)));
  return 0;
}

}  // namespace moraine
