// Memory of the test device: pages that nothing can touch but a kernel of the device, while it runs.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace moraine::testing_support {

// Allocates from one reserved range of addresses whose pages are PROT_NONE: a host that follows a device's pointer ends
// by SIGSEGV. A fresh block is filled with 0xFF (NaN in every floating-point type), as nothing may be expected of it.
c10::Allocator& device_allocator();

// Whether an address belongs to the test device.
bool is_device_address(const void* address);

// Bytes of blocks that live now, and the most there have been since reset_peak_bytes().
size_t allocated_bytes();
size_t peak_bytes();
void reset_peak_bytes();

// What a kernel does to a block of memory.
struct BlockUse {
  const void* address = nullptr;  // any within the block
  bool writes = false;
};

// Lets this process touch the blocks for as long as it lives, and tells the streams' order (device_streams.h) of it:
// throws c10::Error when another stream may still write or read one of them.
class KernelAccess {
 public:
  explicit KernelAccess(std::span<const BlockUse> uses);
  ~KernelAccess();
  KernelAccess(const KernelAccess&) = delete;
  KernelAccess& operator=(const KernelAccess&) = delete;

 private:
  std::vector<size_t> opened_;  // offsets of blocks
};

// Host memory that the device may read while the host goes on, as CUDA's pinned memory.
c10::Allocator& pinned_allocator();
bool is_pinned_address(const void* address);

}  // namespace moraine::testing_support
