// This process: what the operating system says of it, and settings that it makes of itself before anything else.
#pragma once

#include <cstdint>

namespace moraine {

// Highest resident set size so far (VmHWM), bytes.
uint64_t peak_resident_bytes();

// What the operating system could give to processes now without swapping (MemAvailable), bytes; 0 where it does not
// say.
uint64_t available_memory_bytes();

// Writes out what is buffered and ends the process, without destructors of static objects: libtorch's take a quarter of
// a second.
[[noreturn]] void end_process(int exit_code);

// Ends the process by the signal's default action, so that whoever waits for it sees which one it was. Runs no
// destructors.
[[noreturn]] void end_process_by(int signal_number);

// Lets malloc keep freed blocks of up to 256 MiB: activations come and go in every layer, and the kernel would clear
// their pages each time anew (an eighth of a training step on the CPU). Call before threads start.
void keep_freed_memory();

// Makes a pipe without a reader (SIGPIPE) and a file at the limit of `ulimit -f` (SIGXFSZ) errors of the write that
// meets them, which would end the process otherwise. Call before anything is written.
void make_write_failures_errors();

// Lets something stand for stdin, stdout and stderr where the shell has closed them (`>&-`): the next file to be opened
// would take the place, and the log would be written into it. Reads and writes fail as before. Call before a file is
// opened.
void fill_closed_standard_streams();

// Leaves failures of NCCL to its callers: its watchdog would end the process before they can say which rank died.
// Settings of the environment stay. Call before threads start.
void let_callers_handle_nccl_errors();

// Gives cuBLAS workspaces with which its products have the same bits each time (train.deterministic asks for them; on
// GPUs of compute capability 9 they are as large as torch's own). A setting of the environment stays. Call before
// threads start.
void make_cublas_reproducible();

}  // namespace moraine
