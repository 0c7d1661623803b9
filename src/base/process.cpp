#include "base/process.h"

#include <malloc.h>
#include <sys/resource.h>

#include <cstdlib>
#include <initializer_list>

namespace moraine {

uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
}

void let_callers_handle_nccl_errors() {
  for (const char* name : {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_RETHROW_CUDA_ERRORS", "TORCH_NCCL_DUMP_ON_TIMEOUT",
                           "TORCH_NCCL_ENABLE_MONITORING"}) {
    setenv(name, "0", /*overwrite=*/0);
  }
}

}  // namespace moraine
