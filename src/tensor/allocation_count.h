// Counts the memory of tensors.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>

namespace moraine {

// The bytes of tensors on devices of one type, CPU or meta, that are made while this object lives. Meta tensors have no
// data: their bytes are those that they would have. Stands in for libtorch's allocator; the one before comes back at
// the end. One at a time for each type.
class AllocationCount {
 public:
  explicit AllocationCount(c10::DeviceType type);
  ~AllocationCount();
  AllocationCount(const AllocationCount&) = delete;
  AllocationCount& operator=(const AllocationCount&) = delete;

  int64_t live() const;  // of those that exist
  // Since the last call of forget_peak: the most that existed at a time, and the largest one made.
  int64_t peak() const;
  int64_t largest() const;
  void forget_peak();

  class Allocator;

 private:
  c10::DeviceType type_;
  std::unique_ptr<Allocator> allocator_;
};

}  // namespace moraine
