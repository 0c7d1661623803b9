// moraine train: a recipe in, an adapter out; on one rank or many.
#include "train/trainer.h"

#include "cli/cli.h"
#include "cli/run_on_ranks.h"
#include "config/recipe.h"

namespace moraine {

int run_train(const CommandArgs& args) {
  const auto recipe = [&] { return read_recipe(args.recipe, args.overrides); };
  return run_on_ranks(
      args, [&](int64_t) { recipe(); }, [&](Control& control) { return train(recipe(), control); });
}

}  // namespace moraine
