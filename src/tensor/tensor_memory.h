// How tensors on the CPU get their memory.
#pragma once

namespace moraine {

// Makes libtorch take CPU tensors' memory from malloc instead of posix_memalign. glibc's aligned blocks are cut out of
// larger ones, so that a freed block is some bytes too small for the next tensor of the same size; layers allocate the
// same sizes again and again, and the heap would grow to twice of what is ever in use. Call before the first tensor is
// made.
void reuse_tensor_memory();

}  // namespace moraine
