// A few buffers in memory that the ranks of one machine share: one rank fills them in turn, the others take what is
// theirs.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace moraine {

// Chunks 0, 1, 2, … take turns in the slots. Waiting is polling in short sleeps: nobody sits in a collective while
// storage is slow, and a rank that dies is found by the control plane, which ends this process. The memory goes with
// its last process.
class SharedRing {
 public:
  static constexpr uint64_t kSlots = 8, kSlotBytes = uint64_t{8} << 20;

  SharedRing();  // the filling rank's. Throws a run error when the machine gives no shared memory.
  // nullptr when `address` cannot be mapped from here (another machine or container).
  static std::unique_ptr<SharedRing> attach(const std::string& address);
  ~SharedRing();
  SharedRing(const SharedRing&) = delete;
  SharedRing& operator=(const SharedRing&) = delete;
  std::string address() const;

  std::span<std::byte> bytes(uint64_t chunk);
  // The filling rank, from any of its threads, chunks begun in order: waits until the slot's earlier chunk was taken by
  // all.
  void wait_until_free(uint64_t chunk);
  void publish(uint64_t chunk, int64_t receivers);
  // A receiver of `chunk`.
  void wait_until_filled(uint64_t chunk);
  void taken(uint64_t chunk);
  // Makes every wait of this process throw: another of its threads has failed.
  void abandon() { abandoned_ = true; }

 private:
  struct Slot;
  struct Header;
  SharedRing(int fd, Header* header) : fd_(fd), header_(header) {}
  Slot& slot(uint64_t chunk);
  template <typename Condition>
  void wait(const Condition& condition);

  int fd_ = -1;
  Header* header_ = nullptr;
  std::atomic<bool> abandoned_{false};
};

}  // namespace moraine
