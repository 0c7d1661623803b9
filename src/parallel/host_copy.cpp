#include "parallel/host_copy.h"

#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "base/error.h"

namespace moraine {

struct HostCopy::State {
  c10::impl::VirtualGuardImpl device;
  c10::Device where;
  c10::Event done;
  bool awaited = false;

  ~State() {
    if (awaited) return;
    try {
      done.synchronize();
    } catch (...) {
      // The device has failed: it copies nothing any more, and the error that it failed with is being told.
    }
  }
};

void HostCopy::wait() {
  if (!state_) return;
  state_->done.block(state_->device.getStream(state_->where));
  state_->awaited = true;
  state_.reset();
}

struct HostCopies::Stream {
  c10::impl::VirtualGuardImpl device;
  c10::Device where;
  c10::Stream stream;
};

HostCopies::HostCopies(c10::Device device) {
  if (device.is_cpu()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  stream_.reset(new Stream{guard, device, guard.getStreamFromGlobalPool(device, /*isHighPriority=*/false)});
}

HostCopies::~HostCopies() = default;

HostCopy HostCopies::start(const at::Tensor& to, const at::Tensor& from) {
  MORAINE_ASSERT(from.is_cpu() && to.sizes() == from.sizes() && to.scalar_type() == from.scalar_type(),
                 "a copy of the host's memory");
  HostCopy copy;
  if (!stream_) {
    to.copy_(from);
    return copy;
  }
  c10::Event so_far(stream_->where.type());
  so_far.record(stream_->device.getStream(stream_->where));
  so_far.block(stream_->stream);
  copy.state_.reset(new HostCopy::State{stream_->device, stream_->where, c10::Event(stream_->where.type()), false});
  const c10::StreamGuard on_stream(stream_->stream);
  to.copy_(from, /*non_blocking=*/true);
  copy.state_->done.record(stream_->stream);
  return copy;
}

}  // namespace moraine
