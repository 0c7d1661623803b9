// The whole run: load → loop → export.
#pragma once

#include "config/recipe.h"
#include "dist/control.h"

namespace moraine {

// Trains as `recipe` says on all ranks of control's world, which must all call this with the same recipe; rank 0 writes the
// run folder. Throws input errors before anything is written for what is wrong with the recipe, the checkpoint or the data.
void train(const Recipe& recipe, Control& control);

}  // namespace moraine
