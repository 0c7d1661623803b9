// What the operating system says of this process.
#pragma once

#include <cstdint>

namespace moraine {

// Highest resident set size so far (VmHWM), bytes.
uint64_t peak_resident_bytes();

// Lets malloc keep freed blocks of up to 256 MiB: activations come and go in every layer, and the kernel would clear their
// pages each time anew (an eighth of a training step on the CPU). Call before threads start.
void keep_freed_memory();

// Leaves failures of NCCL to its callers: its watchdog would end the process before they can say which rank died. Settings of the
// environment stay. Call before threads start.
void let_callers_handle_nccl_errors();

}  // namespace moraine
