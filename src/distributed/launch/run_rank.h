// The frame around what a rank does: joins the world, and turns whatever goes wrong into one line for the world.
#pragma once

#include <functional>

#include "distributed/control/control.h"
#include "distributed/control/launch.h"

namespace moraine {

// Runs `body` as the rank that `world` says and returns the exit code. An Error (or any std::exception) that leaves
// `body` becomes the world's error; with several ranks the process then ends right here, because collectives may be in
// flight whose destructors would wait for ranks that never come. Ranks other than 0 log nothing. `top` and `ps` show
// rank 3 of several as moraine:3.
int run_rank(const WorldInfo& world, const ControlOptions& options, const std::function<int(Control&)>& body);

}  // namespace moraine
