// What the operating system says of this process.
#pragma once

#include <cstdint>

namespace moraine {

// Highest resident set size so far (VmHWM), bytes.
uint64_t peak_resident_bytes();

}  // namespace moraine
