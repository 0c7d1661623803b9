// What every command does that works on one rank or many.
#pragma once

#include <functional>

#include "cli/cli.h"
#include "distributed/control/control.h"

namespace moraine {

// With --ranks N starts N ranks of this same command line on this machine; else joins the world that a launcher
// started, if any, and runs `body` as one of its ranks. `check(ranks)` finds mistakes that should not cost the start of
// many processes; it is called before they start and not in the ranks. Returns the exit code.
int run_on_ranks(const CommandArgs& args, const std::function<void(int64_t ranks)>& check,
                 const std::function<int(Control&)>& body);

}  // namespace moraine
