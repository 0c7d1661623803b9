#include "base/cpu_features.h"

#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "base/text.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moraine {
namespace {

bool is_held_to(std::string_view instructions) {
  const char* setting = std::getenv("MORAINE_CPU");
  return setting && setting == instructions;
}
bool is_held_to_avx2() { return is_held_to("avx2"); }

void obey_cpu_setting() {
  const char* setting = std::getenv("MORAINE_CPU");
  if (!setting || std::string_view(setting) == "native") return;
  if (is_held_to("avx512")) {
    setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", /*overwrite=*/1);
    return;
  }
  if (!is_held_to_avx2()) throw input_error("MORAINE_CPU", quote_text(setting) + " is not native, avx512 or avx2");
  setenv("ATEN_CPU_CAPABILITY", "avx2", /*overwrite=*/1);
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", /*overwrite=*/1);
  setenv("MKL_CBWR", "AVX2,STRICT", /*overwrite=*/1);
}

void fix_rounding_of_products() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_is("intel")) setenv("MKL_CBWR", "AUTO,STRICT", /*overwrite=*/0);
#endif
}

void avoid_undescribed_amx() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool reports_amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 1);
  a = 0;
  const bool describes_tiles = __get_cpuid_count(0x1d, 1, &a, &b, &c, &d) && a != 0;
  if (reports_amx && !describes_tiles) setenv("ONEDNN_MAX_CPU_ISA", "AVX10_1_512", /*overwrite=*/0);
#endif
}

void enlarge_kernel_cache() { setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192", /*overwrite=*/0); }

}  // namespace

void settle_cpu_computation() {
  obey_cpu_setting();  // before what it overwrites
  avoid_undescribed_amx();
  fix_rounding_of_products();
  enlarge_kernel_cache();
}

InstructionSet instruction_set() {
#if defined(__x86_64__)
  static const InstructionSet widest = [] {
    if (__builtin_cpu_supports("x86-64-v4") && !is_held_to_avx2()) return InstructionSet::kAvx512;
    return __builtin_cpu_supports("x86-64-v3") ? InstructionSet::kAvx2 : InstructionSet::kBaseline;
  }();
  return widest;
#else
  return InstructionSet::kBaseline;
#endif
}

bool multiplies_bf16() {
#if defined(__x86_64__)
  static const bool has_avx512 =
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has_avx512 && !is_held_to_avx2();
#else
  return true;
#endif
}

bool has_bf16_products() {
#if defined(__x86_64__)
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool amx = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1);
    const bool avx512 = __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
    return (amx || avx512) && multiplies_bf16() && !is_held_to("avx512");
  }();
  return has;
#else
  return multiplies_bf16();
#endif
}

}  // namespace moraine
