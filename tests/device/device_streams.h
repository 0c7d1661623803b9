// Streams and events of the test device. Kernels run at once, whatever their stream; what is kept is which work is
// known to come after which (a vector clock for each stream), so that work whose order nothing assures is an error.
#pragma once

#include <c10/core/Stream.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace moraine::testing_support {

// By stream, the number of its kernels that are known to have ended.
using StreamTimes = std::map<c10::StreamId, int64_t>;

// One more kernel on the calling thread's current stream; follows what the host has waited for.
void begin_kernel();

// The host waits for the current stream, as a blocking copy from the device does.
void wait_on_host();

// Who used a block of memory last.
class StreamUses {
 public:
  // Of a block that the current stream allocates.
  static StreamUses allocated_now();
  // The kernel begun last on the current stream uses it. Throws c10::Error when a writer, or for a write a reader, of
  // another stream is not known to have ended.
  void add(bool writes);
  // As the block is freed: its allocating stream may use the memory again at once, so a kernel of another stream that
  // is not known to have ended is a fault. Kept for take_faults(), since freeing may not throw.
  void check_free() const;

 private:
  c10::StreamId allocated_by_ = 0;
  StreamTimes written_, read_;
};

// Faults found where nothing could be thrown, since the last call.
std::vector<std::string> take_faults();

// From here on the first fault ends the process, by abort() after a line on stderr.
void end_at_faults();

// The guard that libtorch asks for streams, events and the current device.
const c10::impl::DeviceGuardImplInterface& device_guard();

}  // namespace moraine::testing_support
