// Gloo for tensors of the test device: as it takes CUDA's, by way of the host's memory and a stream of its own.
#pragma once

#include <c10/util/intrusive_ptr.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>

namespace moraine::testing_support {

// The same group. Until wait() a collective counts as reading its inputs and writing its outputs, which hold nothing of
// use; one that nobody waits for keeps its tensors.
c10::intrusive_ptr<c10d::Backend> gloo_on_test_device(c10::intrusive_ptr<c10d::Backend> gloo);

}  // namespace moraine::testing_support
