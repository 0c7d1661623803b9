// Rank 0's bytes on every rank, for what only rank 0 can see.
#pragma once

#include <functional>
#include <string>

#include "dist/mesh_groups.h"

namespace moraine {

// What `make` returns on rank 0; it runs there only. All ranks of the world must call this, with a name that is used once. The
// others wait as long as rank 0 lives, in no collective, until it is made; then one broadcast brings it.
std::string from_rank0(MeshGroups& groups, const std::string& name, const std::function<std::string()>& make);

}  // namespace moraine
