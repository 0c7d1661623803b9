// moraine train: a recipe in, an adapter out.
#include "cli/cli.h"
#include "config/recipe.h"
#include "train/trainer.h"

namespace moraine {

int run_train(const CommandArgs& args) {
  train(read_recipe(args.recipe, args.overrides));
  return 0;
}

}  // namespace moraine
