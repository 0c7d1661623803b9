// File descriptors: every connection between ranks is one, and a process that has none left fails in places that cannot
// say so.
#pragma once

#include <cstdint>
#include <string>

namespace moraine {

// Raises this process's soft limit to the hard one.
void raise_descriptor_limit();

// How many more this process may open.
int64_t free_descriptors();

// Throws a run error when this process cannot open `count` more. `what` needs them ("--ranks 4").
void require_descriptors(int64_t count, const std::string& what);

}  // namespace moraine
