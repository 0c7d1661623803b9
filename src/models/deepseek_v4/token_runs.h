// Work on wide tokens a few at a time.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>

#include "tensor/execution_device.h"

namespace moraine::deepseek_v4 {

// Calls body(first, count) for runs of rows of x that fit the CPU's caches, in fp32 too: what is bound by memory is
// done before a run leaves them, and fp32 copies of a whole batch are never made.
template <typename Body>
void for_each_run(const at::Tensor& x, const Body& body) {
  const int64_t run = execution_device(x.device()).is_cpu() ? 64 : 8192;
  // For meta tensors one is as good as all: runs keep nothing.
  const int64_t rows = x.is_meta() ? std::min(x.size(0), run) : x.size(0);
  for (int64_t first = 0; first < rows; first += run) body(first, std::min(run, rows - first));
}

}  // namespace moraine::deepseek_v4
