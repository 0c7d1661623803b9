// What the processor says it can do, checked.
#pragma once

namespace moraine {

// Settles how libtorch, oneDNN and MKL compute in this process, by environment variables that they read once: call
// before threads start and before the first tensor operation.
// - MORAINE_CPU=avx2 keeps them and this program to AVX2 on a processor that has more: what is computed is then what a
//   processor with AVX2 alone would; avx512 likewise without instructions for bf16. Unset or "native": all that the
//   processor has. Throws an input error for another value.
// - MKL's fp32 and fp64 products give a row the same bits whatever rows share the call (MKL_CBWR=AUTO,STRICT, unless it
//   is set): on Intel's processors its kernels otherwise round by how many rows there are, from 8 against 16 rows
//   (AVX-512, 256 or more summands) to nearly every number (AVX2). Measured at 8 to 1,024 rows: none differ, large
//   products take the same time, those with 8 columns up to 1.6 times. On others' processors, where its kernels were
//   found not to differ from 8 rows on, nothing is set.
// - Some virtual machines report AMX (x86 matrix tiles) but hide the processor's description of the tiles (CPUID leaf
//   0x1D). oneDNN then configures tiles of no size, and libtorch dies of SIGILL in its first bf16 matrix product. There
//   oneDNN is told, by ONEDNN_MAX_CPU_ISA, to do without AMX; a value that the user set is kept.
// - oneDNN keeps more compiled kernels than its default of 1024: variable batch shapes would evict each other.
void settle_cpu_computation();

// The widest vectors that kernels of this program use: AVX-512 (F, BW, VL, DQ, CD), AVX2 with fused multiply-add, or
// what every processor has. Not above AVX2 with MORAINE_CPU=avx2.
enum class InstructionSet { kBaseline, kAvx2, kAvx512 };
InstructionSet instruction_set();

// Whether libtorch's bf16 matrix products are made for this processor. On x86 they want AVX-512 (BW, VL, DQ). False
// with MORAINE_CPU=avx2.
bool multiplies_bf16();

// Whether the processor has instructions for products of bf16 (AVX512-BF16, AMX), which make them faster than those of
// fp32; where it lacks them oneDNN imitates them at a quarter of the speed of fp32. False with MORAINE_CPU=avx2 or
// MORAINE_CPU=avx512.
bool has_bf16_products();

}  // namespace moraine
