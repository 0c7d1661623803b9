#include "base/cpu_features.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moraine {

void avoid_undescribed_amx() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool reports_amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1);
  a = 0;
  const bool describes_tiles = __get_cpuid_count(0x1d, 1, &a, &b, &c, &d) && a != 0;
  if (reports_amx && !describes_tiles) setenv("ONEDNN_MAX_CPU_ISA", "AVX10_1_512", /*overwrite=*/0);
#endif
}

bool multiplies_bf16() {
#if defined(__x86_64__)
  static const bool has_avx512 =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has_avx512;
#else
  return true;
#endif
}

void enlarge_kernel_cache() { setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192", /*overwrite=*/0); }

}  // namespace moraine
