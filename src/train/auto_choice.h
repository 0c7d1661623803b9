// The keys of a recipe that are left to be decided (auto), decided before a run begins.
#pragma once

#include "config/recipe.h"
#include "distributed/control/control.h"

namespace moraine {

// `recipe` without auto in mesh.ep, mesh.offload and train.recompute: what the run in save.dir that would go on has
// taken, if that fits the world, else the fastest by prediction of what fits rank 0's memory (plan/mesh_choice). Rank 0
// decides, says why, and tells the others. All ranks of the world must call this, once. Throws as opening the
// checkpoint does.
Recipe with_choices_made(const Recipe& recipe, Control& control);

}  // namespace moraine
