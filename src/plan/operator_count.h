// What the operators of a computation ask of a device, counted while it runs on meta tensors: kernels, bytes of memory
// and the arithmetic of matrix products.
#pragma once

#include <ATen/record_function.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

namespace moraine {

// How a product is computed, as far as speeds differ.
enum class Product {
  kNone,       // no product: memory alone
  kHalf,       // bf16 matrices
  kGrouped,    // bf16 matrices of all experts in one kernel
  kAttention,  // a fused attention kernel
  kFloat,      // fp32 matrices, exact (no TF32)
};

// One kernel.
struct Operation {
  Product product = Product::kNone;
  double flops = 0;  // of a product: 2 per multiplication; causal attention as half of the whole
  double bytes = 0;  // of memory, read and written: each tensor once for each
  friend auto operator<=>(const Operation&, const Operation&) = default;
};

// The kernels of a computation; equal ones with how many there are.
struct DeviceWork {
  std::map<Operation, double> operations;

  void add(const Operation& operation, double times = 1) { operations[operation] += times; }
  DeviceWork& operator+=(const DeviceWork& more);
  double launches() const;
  double flops() const;
  double bytes() const;
};

// Counts the operators on meta tensors that run on this thread while it lives: those that reach a kernel, not those
// that are made of others, and no views. One at a time.
class OperatorCount {
 public:
  OperatorCount();
  ~OperatorCount();
  OperatorCount(const OperatorCount&) = delete;
  OperatorCount& operator=(const OperatorCount&) = delete;

  // What ran since the last call.
  DeviceWork take();

 private:
  static std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& call);
  static void on_end(const at::RecordFunction& call, at::ObserverContext* started);
  DeviceWork work_;
  at::CallbackHandle handle_;
};

}  // namespace moraine
