#include "tensor/tensor_memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace moraine {
namespace {

constexpr size_t kAlignment = 64;  // libtorch's: a cache line, and what vector instructions want

// A block begins with padding; right before the aligned bytes stands where it began.
class MallocAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t nbytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (nbytes == 0) return {nullptr, nullptr, &release, cpu};
    void* block = std::malloc(nbytes + kAlignment);
    if (!block) throw std::bad_alloc();
    // malloc's blocks lie at multiples of 16, so there are at least 16 bytes in front.
    const uintptr_t aligned = (reinterpret_cast<uintptr_t>(block) + kAlignment) / kAlignment * kAlignment;
    void* data = reinterpret_cast<void*>(aligned);
    static_cast<void**>(data)[-1] = block;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }

 private:
  static void release(void* data) {
    if (data) std::free(static_cast<void**>(data)[-1]);
  }
};

}  // namespace

void reuse_tensor_memory() {
  static MallocAllocator allocator;  // outlives every tensor
  c10::SetCPUAllocator(&allocator, /*priority=*/1);
}

}  // namespace moraine
