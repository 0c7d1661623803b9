// Copies from host memory to a device that run beside what the device computes.
#pragma once

#include <ATen/ATen.h>

#include <memory>

namespace moraine {

// A copy in flight. What it reads and writes must stay untouched (`to`: unread) until wait() returns; on a device
// wait() makes the current stream wait and returns at once.
class HostCopy {
 public:
  HostCopy() = default;  // nothing in flight
  void wait();           // where nobody called it, as when an error ends a run, the host waits as the copy goes

 private:
  friend class HostCopies;
  struct State;
  std::shared_ptr<State> state_;
};

// A stream of its own for copies to one device. Of the CPU: copies within its memory, done at once.
class HostCopies {
 public:
  explicit HostCopies(c10::Device device);
  ~HostCopies();

  // Copies `from`, in the host's memory (pinned, or the copy waits for the host), to `to` on the device, of the same
  // size and dtype, once what the current stream has been given so far has ended.
  HostCopy start(const at::Tensor& to, const at::Tensor& from);

 private:
  struct Stream;
  std::unique_ptr<Stream> stream_;  // null: the CPU
};

}  // namespace moraine
