// A device for tests on machines without a GPU: libtorch's PrivateUse1 backend with memory that the host cannot touch,
// CUDA's rules for the operators that are used, backward passes on autograd's device thread, streams whose order is
// checked, and a log. Its kernels are the CPU's, run in place on the device's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

namespace moraine::testing_support {

// The device that tests put their tensors on: MORAINE_TEST_DEVICE is cpu (the default), test or cuda.
c10::Device test_device();
inline at::Tensor to_test_device(const at::Tensor& x) { return x.to(test_device()); }

// The test device, whatever MORAINE_TEST_DEVICE says.
c10::Device registered_device();

// What ran on the test device.
struct DeviceLog {
  struct Operator {
    int64_t launches = 0;
    int64_t bytes = 0;  // read and written: each tensor that it is given or makes, once
    int64_t waits = 0;  // times that the host waited for the device's result
  };
  std::map<std::string, Operator> operators;  // by name and overload, as "aten::mm.out"

  Operator sum() const;
  std::string table() const;  // a line for each operator, most bytes first
};

// Logs what runs on the test device, on any thread, while it lives. One at a time.
class DeviceLogScope {
 public:
  DeviceLogScope();
  ~DeviceLogScope();
  DeviceLog log() const;
};

// While one lives, a wait of the host for the device throws c10::Error that names the operator.
class NoHostWaits {
 public:
  NoHostWaits();
  ~NoHostWaits();
};

// While one lives, products in fp64 are no error: for the definitions that tests compare with.
class Fp64Products {
 public:
  Fp64Products();
  ~Fp64Products();
};

}  // namespace moraine::testing_support
