#include "tensor/allocation_count.h"

#include <c10/core/Allocator.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace moraine {

// Shared with the tensors, which may live longer than the count.
struct AllocationCounter {
  std::mutex mutex;
  int64_t live = 0, peak = 0, largest = 0;

  void add(int64_t bytes) {
    const std::lock_guard lock(mutex);
    live += bytes;
    peak = std::max(peak, live);
    largest = std::max(largest, bytes);
  }
};

namespace {

constexpr uint8_t kPriority = 1;  // that of reuse_tensor_memory: the last one to come wins

// The memory of a tensor.
struct Counted {
  std::shared_ptr<AllocationCounter> counter;
  int64_t bytes;
  c10::DataPtr memory;

  ~Counted() { counter->add(-bytes); }
};

// Memory with an address is looked up by it: libtorch wants the pointer that it deletes to be the address.
std::mutex addresses_mutex;
std::unordered_map<void*, std::unique_ptr<Counted>>& addresses() {
  static auto* all = new std::unordered_map<void*, std::unique_ptr<Counted>>;  // outlives every tensor
  return *all;
}

void release_address(void* address) {
  std::unique_ptr<Counted> counted;
  const std::lock_guard lock(addresses_mutex);
  const auto found = addresses().find(address);
  counted = std::move(found->second);
  addresses().erase(found);
}

void release_counted(void* counted) { delete static_cast<Counted*>(counted); }

}  // namespace

class AllocationCount::Allocator final : public c10::Allocator {
 public:
  explicit Allocator(c10::Allocator* before) : before(before) {}

  c10::DataPtr allocate(size_t nbytes) override {
    const int64_t bytes = static_cast<int64_t>(nbytes);
    auto counted = std::make_unique<Counted>(counter, bytes, before->allocate(nbytes));
    counter->add(bytes);
    void* data = counted->memory.get();
    const c10::Device device = counted->memory.device();
    if (!data) return {nullptr, counted.release(), &release_counted, device};
    const std::lock_guard lock(addresses_mutex);
    addresses()[data] = std::move(counted);
    return {data, data, &release_address, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_address; }
  void copy_data(void* to, const void* from, size_t count) const override { before->copy_data(to, from, count); }

  c10::Allocator* before;
  std::shared_ptr<AllocationCounter> counter = std::make_shared<AllocationCounter>();
};

AllocationCount::AllocationCount(c10::DeviceType type)
    : type_(type), allocator_(std::make_unique<Allocator>(c10::GetAllocator(type))) {
  c10::SetAllocator(type_, allocator_.get(), kPriority);
}

AllocationCount::~AllocationCount() { c10::SetAllocator(type_, allocator_->before, kPriority); }

int64_t AllocationCount::live() const {
  const std::lock_guard lock(allocator_->counter->mutex);
  return allocator_->counter->live;
}

int64_t AllocationCount::peak() const {
  const std::lock_guard lock(allocator_->counter->mutex);
  return allocator_->counter->peak;
}

int64_t AllocationCount::largest() const {
  const std::lock_guard lock(allocator_->counter->mutex);
  return allocator_->counter->largest;
}

void AllocationCount::forget_peak() {
  const std::lock_guard lock(allocator_->counter->mutex);
  allocator_->counter->peak = allocator_->counter->live;
  allocator_->counter->largest = 0;
}

}  // namespace moraine
