// moraine recipe: the recipe's keys, for a reader or an editor.
#include "base/error.h"
#include "base/output.h"
#include "cli/cli.h"
#include "config/recipe_reference.h"

namespace moraine {

int run_recipe(const CommandArgs& args) {
  if (!args.key.empty() + args.schema + args.markdown > 1)
    throw input_error("recipe", "more than one of KEY, --schema and --markdown is given");
  print_result(args.schema     ? recipe_schema().dump(2) + "\n"
               : args.markdown ? recipe_markdown()
                               : recipe_text(args.key));
  return 0;
}

}  // namespace moraine
