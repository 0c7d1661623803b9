#include "device/device_memory.h"

#include <c10/util/Exception.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "device/device_streams.h"

namespace moraine::testing_support {
namespace {

constexpr size_t kReserved = size_t{64} << 30, kPage = 4096;

struct Block {
  size_t bytes = 0;   // as asked for
  size_t pages = 0;   // bytes, rounded up
  int open = 0;       // kernels that touch it now
  StreamUses uses{};  // who wrote and read it last
};

void check_system_call(bool done, const char* name) {
  TORCH_CHECK(done, "test device: ", name, ": ", std::strerror(errno));
}

class Arena {
 public:
  Arena() {
    void* base = mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    check_system_call(base != MAP_FAILED, "mmap");
    base_ = static_cast<char*>(base);
    free_[0] = kReserved;
  }

  void* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    // A page behind the block belongs to nobody.
    const size_t pages = (std::max<size_t>(bytes, 1) + kPage - 1) / kPage * kPage;
    const auto found =
        std::find_if(free_.begin(), free_.end(), [&](const auto& range) { return range.second >= pages + kPage; });
    TORCH_CHECK(found != free_.end(), "test device: out of memory");
    const auto [offset, size] = *found;
    free_.erase(found);
    if (size > pages + kPage) free_[offset + pages + kPage] = size - pages - kPage;
    protect(offset, pages, PROT_READ | PROT_WRITE);
    std::memset(base_ + offset, 0xFF, pages);
    protect(offset, pages, PROT_NONE);
    blocks_[offset] = {bytes, pages, 0, StreamUses::allocated_now()};
    allocated_ += bytes;
    peak_ = std::max(peak_, allocated_);
    return base_ + offset;
  }

  void release(void* pointer) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(offset_of(pointer));
    TORCH_CHECK(block != blocks_.end(), "test device: a block is freed that was not allocated");
    block->second.uses.check_free();
    madvise(base_ + block->first, block->second.pages, MADV_DONTNEED);
    allocated_ -= block->second.bytes;
    auto range = free_.emplace(block->first, block->second.pages + kPage).first;
    blocks_.erase(block);
    if (const auto next = std::next(range); next != free_.end() && range->first + range->second == next->first) {
      range->second += next->second;
      free_.erase(next);
    }
    if (range == free_.begin()) return;
    if (const auto before = std::prev(range); before->first + before->second == range->first) {
      before->second += range->second;
      free_.erase(range);
    }
  }

  bool holds(const void* address) const {
    const auto* at = static_cast<const char*>(address);
    return at >= base_ && at < base_ + kReserved;
  }

  size_t open(const BlockUse& use) {
    const std::lock_guard lock(mutex_);
    auto block = blocks_.upper_bound(offset_of(use.address));
    TORCH_CHECK(block != blocks_.begin(), "test device: a kernel is given freed memory");
    --block;
    TORCH_CHECK(offset_of(use.address) <= block->first + block->second.pages,
                "test device: a kernel is given freed memory");
    block->second.uses.add(use.writes);
    if (block->second.open++ == 0) protect(block->first, block->second.pages, PROT_READ | PROT_WRITE);
    return block->first;
  }

  void close(size_t offset) {
    const std::lock_guard lock(mutex_);
    const auto block = blocks_.find(offset);
    if (block == blocks_.end()) return;  // freed by the kernel itself
    if (--block->second.open == 0) protect(offset, block->second.pages, PROT_NONE);
  }

  size_t allocated() const { return allocated_; }
  size_t peak() const { return peak_; }
  void reset_peak() { peak_ = allocated_; }

 private:
  size_t offset_of(const void* address) const { return static_cast<size_t>(static_cast<const char*>(address) - base_); }
  void protect(size_t offset, size_t bytes, int how) {
    check_system_call(mprotect(base_ + offset, bytes, how) == 0, "mprotect");
  }

  std::mutex mutex_;
  char* base_ = nullptr;
  std::map<size_t, size_t> free_;  // offset -> bytes
  std::map<size_t, Block> blocks_;
  size_t allocated_ = 0, peak_ = 0;
};

Arena& arena() {
  static Arena* const kept = new Arena;  // outlives every tensor
  return *kept;
}

struct DeviceAllocator : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = arena().allocate(bytes);
    return {data, data, [](void* pointer) { arena().release(pointer); }, c10::Device(c10::kPrivateUse1, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return [](void* pointer) { arena().release(pointer); };
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    const BlockUse uses[] = {{to, true}, {from, false}};
    const KernelAccess access(uses);
    std::memcpy(to, from, bytes);
  }
};

class PinnedRanges {
 public:
  void add(void* begin, size_t bytes) {
    const std::lock_guard lock(mutex_);
    ranges_[static_cast<char*>(begin)] = bytes;
  }
  void remove(void* begin) {
    const std::lock_guard lock(mutex_);
    ranges_.erase(static_cast<char*>(begin));
  }
  bool hold(const void* address) const {
    const std::lock_guard lock(mutex_);
    auto range = ranges_.upper_bound(static_cast<const char*>(address));
    return range != ranges_.begin() && (--range, static_cast<const char*>(address) < range->first + range->second);
  }

 private:
  mutable std::mutex mutex_;
  std::map<const char*, size_t> ranges_;
};

PinnedRanges& pinned_ranges() {
  static PinnedRanges* const kept = new PinnedRanges;
  return *kept;
}

struct PinnedAllocator : c10::Allocator {
  static void release(void* pointer) {
    pinned_ranges().remove(pointer);
    std::free(pointer);
  }
  c10::DataPtr allocate(size_t bytes) override {
    void* data = std::malloc(std::max<size_t>(bytes, 1));
    pinned_ranges().add(data, std::max<size_t>(bytes, 1));
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

}  // namespace

c10::Allocator& device_allocator() {
  static DeviceAllocator* const kept = new DeviceAllocator;
  return *kept;
}
bool is_device_address(const void* address) { return arena().holds(address); }
size_t allocated_bytes() { return arena().allocated(); }
size_t peak_bytes() { return arena().peak(); }
void reset_peak_bytes() { arena().reset_peak(); }

KernelAccess::KernelAccess(std::span<const BlockUse> uses) {
  begin_kernel();
  try {
    for (const BlockUse& use : uses)
      if (use.address && is_device_address(use.address)) opened_.push_back(arena().open(use));
  } catch (...) {
    for (size_t offset : opened_) arena().close(offset);
    throw;
  }
}

KernelAccess::~KernelAccess() {
  for (size_t offset : opened_) arena().close(offset);
}

c10::Allocator& pinned_allocator() {
  static PinnedAllocator* const kept = new PinnedAllocator;
  return *kept;
}
bool is_pinned_address(const void* address) { return pinned_ranges().hold(address); }

}  // namespace moraine::testing_support
