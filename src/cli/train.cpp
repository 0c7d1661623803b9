// moraine train: a recipe in, an adapter out; on one rank or many.
#include "train/trainer.h"

#include <fmt/format.h>

#include "base/error.h"
#include "cli/cli.h"
#include "config/recipe.h"
#include "dist/launch.h"
#include "dist/local_ranks.h"
#include "dist/run_rank.h"

namespace moraine {

int run_train(const CommandArgs& args) {
  if (args.ranks < 1) throw input_error("--ranks", fmt::format("{} is not 1 or more", args.ranks));
  if (args.ranks > 1) {
    check_ranks_flag(args.ranks);
    read_recipe(args.recipe, args.overrides);  // a mistake in it should not cost the start of many processes
    LocalRanksOptions options;
    options.ranks = args.ranks;
    options.argv = without_ranks_flag(args.argv);
    return run_local_ranks(options);
  }
  return run_rank(world_from_environment(), ControlOptions::from_environment(), [&](Control& control) {
    train(read_recipe(args.recipe, args.overrides), control);
    return 0;
  });
}

}  // namespace moraine
