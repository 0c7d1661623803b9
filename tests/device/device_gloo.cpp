#include "device/device_gloo.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>

#include <functional>
#include <mutex>
#include <set>
#include <vector>

#include "device/device_memory.h"
#include "device/device_streams.h"
#include "device/test_device.h"

namespace moraine::testing_support {
namespace {

using WorkPtr = c10::intrusive_ptr<c10d::Work>;

bool is_on_device(const at::Tensor& x) { return x.device() == registered_device(); }
c10::Stream computing_stream() { return device_guard().getStream(registered_device()); }

// Works that nobody has waited for.
struct Pending {
  std::mutex mutex;
  std::set<WorkPtr> works;
};

class DeviceWork : public c10d::Work {
 public:
  DeviceWork(WorkPtr gloo, c10::Stream stream, std::vector<at::Tensor> inputs, std::vector<at::Tensor> outputs,
             std::vector<at::Tensor> hosts, std::shared_ptr<Pending> pending)
      : gloo_(std::move(gloo)),
        stream_(stream),
        inputs_(std::move(inputs)),
        outputs_(std::move(outputs)),
        hosts_(std::move(hosts)),
        pending_(std::move(pending)) {}

  bool isCompleted() override { return gloo_->isCompleted(); }
  bool wait(std::chrono::milliseconds timeout) override {
    gloo_->wait(timeout);
    c10::Event arrived(c10::kPrivateUse1);
    {
      const c10::StreamGuard on_stream(stream_);
      for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i].copy_(hosts_[i], /*non_blocking=*/true);
      arrived.record(stream_);
    }
    arrived.block(computing_stream());
    const std::lock_guard lock(pending_->mutex);
    pending_->works.erase(c10::intrusive_ptr<c10d::Work>::unsafe_reclaim_from_nonowning(this));
    return true;
  }

 private:
  WorkPtr gloo_;
  c10::Stream stream_;
  std::vector<at::Tensor> inputs_, outputs_, hosts_;
  std::shared_ptr<Pending> pending_;
};

class DeviceGloo : public c10d::Backend {
 public:
  explicit DeviceGloo(c10::intrusive_ptr<c10d::Backend> gloo)
      : Backend(gloo->getRank(), gloo->getSize()),
        gloo_(std::move(gloo)),
        stream_(device_guard().getNewStream(registered_device(), 0)) {}

  ~DeviceGloo() override { device_guard().synchronizeStream(stream_); }  // as a group ends

  const std::string getBackendName() const override { return "gloo on the test device"; }

  WorkPtr broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    return start(tensors, tensors, [&](auto& hosts, auto&) { return gloo_->broadcast(hosts, options); });
  }
  WorkPtr allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions& options) override {
    return start(tensors, tensors, [&](auto& hosts, auto&) { return gloo_->allreduce(hosts, options); });
  }
  WorkPtr _allgather_base(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    return start({output}, {input},
                 [&](auto& out, auto& in) { return gloo_->_allgather_base(out[0], in[0], options); });
  }
  WorkPtr alltoall_base(at::Tensor& output, at::Tensor& input, std::vector<int64_t>& output_splits,
                        std::vector<int64_t>& input_splits, const c10d::AllToAllOptions& options) override {
    return start({output}, {input}, [&](auto& out, auto& in) {
      return gloo_->alltoall_base(out[0], in[0], output_splits, input_splits, options);
    });
  }
  // Gloo sends and receives in the host's memory alone.
  WorkPtr send(std::vector<at::Tensor>& tensors, int to, int tag) override { return gloo_->send(tensors, to, tag); }
  WorkPtr recv(std::vector<at::Tensor>& tensors, int from, int tag) override { return gloo_->recv(tensors, from, tag); }
  WorkPtr barrier(const c10d::BarrierOptions& options) override { return gloo_->barrier(options); }

 private:
  using Start = std::function<WorkPtr(std::vector<at::Tensor>& outputs, std::vector<at::Tensor>& inputs)>;

  // In place where the outputs are the inputs.
  WorkPtr start(std::vector<at::Tensor> outputs, std::vector<at::Tensor> inputs, const Start& start_gloo) {
    TORCH_CHECK(is_on_device(outputs.at(0)) == is_on_device(inputs.at(0)),
                "test device: a collective of two devices: ", inputs[0].device(), " to ", outputs[0].device());
    if (!is_on_device(outputs[0])) return start_gloo(outputs, inputs);
    c10::Event so_far(c10::kPrivateUse1);
    so_far.record(computing_stream());
    so_far.block(stream_);
    const c10::StreamGuard on_stream(stream_);
    const auto pinned = [](const at::Tensor& x) {
      return at::empty(x.sizes(), x.options().device(c10::kCPU).pinned_memory(true));
    };
    std::vector<at::Tensor> from, to;
    for (const at::Tensor& input : inputs) from.push_back(pinned(input).copy_(input, /*non_blocking=*/true));
    if (outputs[0].is_same(inputs[0])) {
      to = from;
    } else {
      for (const at::Tensor& output : outputs) to.push_back(pinned(output));
    }
    for (const at::Tensor& output : outputs) output.fill_(0xff);
    auto work = c10::make_intrusive<DeviceWork>(start_gloo(to, from), stream_, inputs, outputs, to, pending_);
    const std::lock_guard lock(pending_->mutex);
    pending_->works.insert(work);
    return work;
  }

  c10::intrusive_ptr<c10d::Backend> gloo_;
  c10::Stream stream_;
  std::shared_ptr<Pending> pending_ = std::make_shared<Pending>();
};

}  // namespace

c10::intrusive_ptr<c10d::Backend> gloo_on_test_device(c10::intrusive_ptr<c10d::Backend> gloo) {
  return c10::make_intrusive<DeviceGloo>(std::move(gloo));
}

}  // namespace moraine::testing_support
