// The whole run: load → loop → export.
#pragma once

#include "config/recipe.h"

namespace moraine {

// Trains as `recipe` says and writes the run folder. Throws input errors before anything is written for what is wrong with
// the recipe, the checkpoint or the data.
void train(const Recipe& recipe);

}  // namespace moraine
