// What the processor says it can do, checked.
#pragma once

namespace moraine {

// Some virtual machines report AMX (x86 matrix tiles) but hide the processor's description of the tiles (CPUID leaf 0x1D).
// oneDNN then configures tiles of no size, and libtorch dies of SIGILL in its first bf16 matrix product. Here it is told, by
// ONEDNN_MAX_CPU_ISA, to do without AMX; a value that the user set is kept. Call before threads start and before the first
// tensor operation. Does nothing on other processors.
void avoid_undescribed_amx();

// Lets oneDNN keep more compiled kernels than its default of 1024: variable batch shapes would evict each other. The same
// rules hold.
void enlarge_kernel_cache();

// Whether libtorch's bf16 matrix products are made for this processor. On x86 they want AVX-512 (BW, VL, DQ).
bool multiplies_bf16();

}  // namespace moraine
