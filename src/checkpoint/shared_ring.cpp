#include "checkpoint/shared_ring.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace moraine {
namespace {

constexpr uint64_t kHeaderBytes = uint64_t{2} << 20;  // so that slots begin at huge pages
constexpr uint64_t kMappedBytes = kHeaderBytes + SharedRing::kSlots * SharedRing::kSlotBytes;
constexpr uint64_t kMagic = 0x6d6f7261696e6521;

}  // namespace

struct alignas(64) SharedRing::Slot {
  std::atomic<uint64_t> filled{0};    // number of the chunk in it, plus one
  std::atomic<int64_t> receivers{0};  // that have not taken it yet
};

struct SharedRing::Header {
  uint64_t magic = kMagic;
  Slot slots[kSlots];
};

static_assert(std::atomic<uint64_t>::is_always_lock_free, "shared between processes");

namespace {

void* map_ring(int fd) {
  void* p = mmap(nullptr, kMappedBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (p == MAP_FAILED) return nullptr;
  madvise(p, kMappedBytes, MADV_HUGEPAGE);  // advice only
  return p;
}

}  // namespace

SharedRing::SharedRing() {
  fd_ = memfd_create("moraine-load", MFD_CLOEXEC);
  void* p = fd_ >= 0 && ftruncate(fd_, kMappedBytes) == 0 ? map_ring(fd_) : nullptr;
  if (!p) {
    const std::string reason = std::strerror(errno);
    if (fd_ >= 0) close(fd_);
    throw run_error("load.node_transport", "no shared memory on this machine: " + reason, "use collective or p2p");
  }
  header_ = new (p) Header;
}

std::unique_ptr<SharedRing> SharedRing::attach(const std::string& address) {
  const int fd = open(address.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  struct stat info;
  void* p = fstat(fd, &info) == 0 && static_cast<uint64_t>(info.st_size) == kMappedBytes ? map_ring(fd) : nullptr;
  if (!p || static_cast<Header*>(p)->magic != kMagic) {
    if (p) munmap(p, kMappedBytes);
    close(fd);
    return nullptr;
  }
  return std::unique_ptr<SharedRing>(new SharedRing(fd, static_cast<Header*>(p)));
}

SharedRing::~SharedRing() {
  munmap(header_, kMappedBytes);
  close(fd_);
}

std::string SharedRing::address() const { return fmt::format("/proc/{}/fd/{}", getpid(), fd_); }

std::span<std::byte> SharedRing::bytes(uint64_t chunk) {
  return {reinterpret_cast<std::byte*>(header_) + kHeaderBytes + chunk % kSlots * kSlotBytes, kSlotBytes};
}

SharedRing::Slot& SharedRing::slot(uint64_t chunk) { return header_->slots[chunk % kSlots]; }

template <typename Condition>
void SharedRing::wait(const Condition& condition) {
  for (int64_t microseconds = 20; !condition(); microseconds = std::min<int64_t>(2 * microseconds, 1000)) {
    if (abandoned_) throw run_error("load", "another thread of this rank has failed");
    const timespec pause{0, microseconds * 1000};
    nanosleep(&pause, nullptr);
  }
}

void SharedRing::wait_until_free(uint64_t chunk) {
  Slot& s = slot(chunk);
  const uint64_t earlier = chunk < kSlots ? 0 : chunk - kSlots + 1;
  wait([&] {
    return s.filled.load(std::memory_order_acquire) == earlier && s.receivers.load(std::memory_order_acquire) == 0;
  });
}

void SharedRing::publish(uint64_t chunk, int64_t receivers) {
  slot(chunk).receivers.store(receivers, std::memory_order_relaxed);
  slot(chunk).filled.store(chunk + 1, std::memory_order_release);
}

void SharedRing::wait_until_filled(uint64_t chunk) {
  wait([&] { return slot(chunk).filled.load(std::memory_order_acquire) == chunk + 1; });
}

void SharedRing::taken(uint64_t chunk) { slot(chunk).receivers.fetch_sub(1, std::memory_order_acq_rel); }

}  // namespace moraine
