// --adapter of the commands that take several adapters, each with a weight.
#pragma once

#include <vector>

#include "adapter/weighted_adapters.h"
#include "cli/cli.h"

namespace moraine {

// args.adapters: "DIR" or "DIR=WEIGHT", a weight being what is a number behind the last "=". Throws an input error for
// one that is not finite.
std::vector<WeightedAdapter> weighted_adapters(const CommandArgs& args);

}  // namespace moraine
