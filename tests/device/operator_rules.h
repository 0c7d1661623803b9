// What CUDA's kernels demand of the operators that this program uses, and the CPU's do not.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>

#include <string>

namespace moraine::testing_support {

// Throws c10::Error that names the operator and the rule when CUDA would refuse `arguments`, or fall back to a loop
// over fp64 products. name: without "aten::" and overload.
void check_cuda_rules(const std::string& name, c10::ArrayRef<c10::IValue> arguments);

// Whether products in fp64 are let pass.
void allow_fp64_products(bool allow);

// Whether the host waits for the device's result in it: its output's shape depends on values.
bool waits_for_values(const std::string& name);

}  // namespace moraine::testing_support
