// oneDNN compiles a kernel for every shape of a product of bf16 matrices on the CPU and keeps it: more bytes than many
// an activation takes.
#pragma once

#include <ATen/record_function.h>

#include <cstdint>
#include <set>
#include <vector>

namespace moraine {

// Takes down the shapes of the bf16 products that run on this thread while it lives, on meta tensors too. One at a
// time.
class ProductShapes {
 public:
  ProductShapes();
  ~ProductShapes();
  ProductShapes(const ProductShapes&) = delete;
  ProductShapes& operator=(const ProductShapes&) = delete;

  // Each beginning with the number of rows of the left matrix.
  const std::set<std::vector<int64_t>>& shapes() const { return shapes_; }

 private:
  static std::unique_ptr<at::ObserverContext> on_call(const at::RecordFunction& call);
  std::set<std::vector<int64_t>> shapes_;
  at::CallbackHandle handle_;
};

// How many kernels such products take.
struct ProductKernels {
  double fixed = 0;          // those whose shapes are the same in every step
  double per_row_count = 0;  // for each number of rows that an expert has, which are many
};
// `row_counts`: what experts had when `shapes` were taken down.
ProductKernels count_kernels(const std::set<std::vector<int64_t>>& shapes, const std::set<int64_t>& row_counts);

// With its descriptors a kernel takes about this much (measured, oneDNN of torch 2.13); base/cpu_features says how many
// are kept.
inline constexpr double kKernelBytes = 0.62 * (1 << 20), kMaxKernels = 8192;

}  // namespace moraine
