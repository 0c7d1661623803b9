// Refuses a world whose ranks were given different things: a recipe, seed, checkpoint, data or program that is not the
// same everywhere trains something nobody asked for, or hangs.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distributed/control/control.h"

namespace moraine {

// All ranks of the world must call this, with a `name` that is used once. Values are compared as text; long ones should
// be hashes. Throws an input error on a rank whose value differs from rank 0's that names the rank, the key and both
// values; on the others the control plane ends the process. Returns when all have agreed.
void check_agreement(Control& control, const std::string& name,
                     const std::vector<std::pair<std::string, std::string>>& values);

// The first key whose value differs from rank 0's, or that only one of the two has, as an input error; nullopt when all
// agree. Pure.
std::optional<Error> first_difference(const std::string& rank_text,
                                      const std::vector<std::pair<std::string, std::string>>& values,
                                      const std::vector<std::pair<std::string, std::string>>& rank0_values);

}  // namespace moraine
