#include "cli/run_on_ranks.h"

#include <fmt/format.h>

#include <optional>

#include "base/error.h"
#include "config/recipe.h"
#include "distributed/control/launch.h"
#include "distributed/control/timeout.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"

namespace moraine {

namespace {

// dist.timeout_seconds bounds the start as well, so it is read before the world is joined. A mistake in the recipe is
// found again by all ranks, and said once, after that.
std::optional<double> timeout_seconds(const CommandArgs& args) try {
  const Recipe recipe =
      args.recipe.empty() ? recipe_from_overrides(args.overrides) : read_recipe(args.recipe, args.overrides);
  return recipe.dist.timeout_seconds;
} catch (const Error&) {
  return std::nullopt;
}

int run_as_rank(const CommandArgs& args, const std::function<int(Control&)>& body) {
  const WorldInfo world = world_from_environment();
  ControlOptions options = ControlOptions::from_environment();
  if (world.distributed()) {
    if (const auto seconds = timeout_seconds(args)) options.set_timeout(timeout_from_seconds(*seconds));
  }
  return run_rank(world, options, body);
}

}  // namespace

int run_on_ranks(const CommandArgs& args, const std::function<void(int64_t ranks)>& check,
                 const std::function<int(Control&)>& body) {
  if (args.ranks < 1) throw input_error("--ranks", fmt::format("{} is not 1 or more", args.ranks));
  const auto rank = [&] { return run_as_rank(args, body); };
  if (args.ranks == 1) return rank();
  check_ranks_flag(args.ranks);
  check(args.ranks);
  return run_local_ranks(args.ranks, rank);
}

}  // namespace moraine
