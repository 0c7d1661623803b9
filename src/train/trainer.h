// The whole run: load → loop → snapshot → export.
#pragma once

#include "config/recipe.h"
#include "distributed/control/control.h"

namespace moraine {

// Trains as `recipe` says on all ranks of control's world, which must all call this with the same recipe; rank 0 writes
// the run folder. Throws input errors before anything is written for what is wrong with the recipe, the checkpoint or
// the data. Returns the program's exit code: 0, also when train.stop_after ended the run early; 128 + the signal when
// one asked for it (StopRequest), as launchers expect of a run that is not done.
int train(const Recipe& recipe, Control& control);

}  // namespace moraine
