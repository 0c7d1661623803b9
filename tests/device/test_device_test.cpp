// The test device catches what would go wrong on a GPU: one planted bug of each kind.
#include "device/test_device.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

#include <thread>

#include "device/device_gloo.h"
#include "device/device_memory.h"
#include "device/device_streams.h"
#include "tensor/to_device.h"

namespace moraine::testing_support {
namespace {

using testing::HasSubstr;

at::Tensor on_device(const at::Tensor& x) { return x.to(registered_device()); }

template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

c10::Stream other_stream() {
  static const c10::Stream stream = device_guard().getNewStream(registered_device(), 0);
  return stream;
}

class TestDevice : public testing::Test {
 protected:
  void SetUp() override { registered_device(); }
  void TearDown() override { EXPECT_THAT(take_faults(), testing::IsEmpty()); }
};

TEST_F(TestDevice, ComputesWhatTheCpuDoes) {
  const at::Tensor a = at::randn({5, 7}), b = at::randn({7, 3}), indices = at::tensor({4, 0, 4});
  const at::Tensor x = at::mm(on_device(a), on_device(b)).index_select(0, on_device(indices)).t().contiguous();
  EXPECT_EQ(x.device(), registered_device());
  EXPECT_TRUE(at::equal(x.cpu(), at::mm(a, b).index_select(0, indices).t()));
  at::Tensor in_place = on_device(a);
  in_place.narrow(1, 2, 3).add_(1).mul_(on_device(at::full({5, 1}, 2.0)));
  at::Tensor expected = a.clone();
  expected.narrow(1, 2, 3).add_(1).mul_(2);
  EXPECT_TRUE(at::equal(in_place.cpu(), expected));
  EXPECT_TRUE(at::equal(to_device({3, 1, 2}, registered_device()).cpu(), at::tensor({3, 1, 2})));
}

TEST_F(TestDevice, HostThatFollowsAPointerEndsBySignal) {
  const at::Tensor x = on_device(at::ones({4}));
  EXPECT_EXIT((void)*static_cast<volatile const float*>(x.const_data_ptr<float>()), testing::KilledBySignal(SIGSEGV),
              "");
}

TEST_F(TestDevice, TensorsOfTwoDevicesDoNotMeet) {
  const at::Tensor x = on_device(at::ones({4}));
  EXPECT_THAT(error_of([&] { x.add(at::ones({4})); }), HasSubstr("and cpu"));
  EXPECT_THAT(error_of([&] { x.index_select(0, at::tensor({1})); }), HasSubstr("is on cpu"));
  EXPECT_TRUE(at::equal(x.mul(at::scalar_tensor(2)).cpu(), at::full({4}, 2.0f)));  // a number of the host's may
}

TEST_F(TestDevice, UnwrittenMemoryIsNotZero) {
  EXPECT_TRUE(at::empty({1000}, at::TensorOptions(registered_device())).isnan().all().item<bool>());
}

TEST_F(TestDevice, HostThatWaitsIsNamed) {
  const at::Tensor x = on_device(at::ones({4}));
  const NoHostWaits none;
  EXPECT_THAT(error_of([&] { x.sum().item<float>(); }), HasSubstr("the host waits for aten::_local_scalar_dense"));
  EXPECT_THAT(error_of([&] { x.cpu(); }), HasSubstr("the host waits for copy to host"));
  EXPECT_THAT(error_of([&] { on_device(at::ones({4})); }), HasSubstr("the host waits for copy from host"));
  EXPECT_THAT(error_of([&] { x.nonzero(); }), HasSubstr("the host waits for aten::nonzero"));
  EXPECT_EQ(error_of([&] { to_device({1, 2}, registered_device()); }), "no error");  // by way of pinned memory
}

TEST_F(TestDevice, StreamsThatNothingOrdersDoNotShareMemory) {
  const at::Tensor x = on_device(at::ones({4})), y = at::empty_like(x);
  x.add_(1);
  const auto copied = [&](bool ordered) {
    c10::Event written(c10::kPrivateUse1);
    written.record(device_guard().getStream(registered_device()));
    {
      const c10::StreamGuard on_other(other_stream());
      if (ordered) written.block(other_stream());
      y.copy_(x);
    }
    c10::Event done(c10::kPrivateUse1);
    done.record(other_stream());
    if (ordered) done.block(device_guard().getStream(registered_device()));
    y.sum();
  };
  EXPECT_THAT(error_of([&] { copied(false); }), HasSubstr("may still be writing"));
  EXPECT_EQ(error_of([&] { copied(true); }), "no error");
  // The copy reads x: what writes x next must follow the copy too.
  device_guard().synchronizeDevice(0);
  {
    const c10::StreamGuard on_other(other_stream());
    y.copy_(x);
  }
  EXPECT_THAT(error_of([&] { x.add_(1); }), HasSubstr("may still be reading"));
  device_guard().synchronizeDevice(0);
  EXPECT_EQ(error_of([&] { x.add_(1); }), "no error");
}

TEST_F(TestDevice, MemoryIsNotFreedUnderAnotherStream) {
  at::Tensor x = on_device(at::ones({4}));
  device_guard().synchronizeDevice(0);
  at::Tensor y;
  {
    const c10::StreamGuard on_other(other_stream());
    y = x.mul(2);
  }
  x.reset();
  EXPECT_THAT(take_faults(), testing::ElementsAre(HasSubstr("is freed while stream")));
  device_guard().synchronizeDevice(0);
}

// A group of one that gathers at once.
struct OneRank : c10d::Backend {
  OneRank() : Backend(0, 1) {}
  c10::intrusive_ptr<c10d::Work> _allgather_base(at::Tensor& output, at::Tensor& input,
                                                 const c10d::AllgatherOptions&) override {
    output.copy_(input);
    struct Done : c10d::Work {
      bool wait(std::chrono::milliseconds) override { return true; }
    };
    return c10::make_intrusive<Done>();
  }
};

TEST_F(TestDevice, CollectivesAreWaitedForBeforeTheirMemoryIsUsed) {
  const auto group = gloo_on_test_device(c10::make_intrusive<OneRank>());
  at::Tensor in = on_device(at::ones({4})), out = at::zeros_like(in), of_host = at::ones({4});
  auto work = group->_allgather_base(out, in);
  EXPECT_THAT(error_of([&] { out.sum(); }), HasSubstr("may still be writing"));
  EXPECT_THAT(error_of([&] { in.add_(1); }), HasSubstr("may still be reading"));
  work->wait();
  EXPECT_EQ(error_of([&] { in.add_(1); }), "no error");
  EXPECT_TRUE(at::equal(out.cpu(), at::ones({4})));
  EXPECT_THAT(error_of([&] { group->_allgather_base(out, of_host); }), HasSubstr("a collective of two devices"));
  // Nobody waits for this one, and its tensors are freed: it keeps them.
  group->_allgather_base(out, in);
  out.reset();
  in.reset();
}

// What grows between a layer's waits, as tests/train/device_budget_test.cpp counts them.
TEST_F(TestDevice, AnItemInALayerIsOneMoreWait) {
  const at::Tensor x = on_device(at::ones({4, 4}));
  const auto waits_of = [&](bool planted) {
    const DeviceLogScope scope;
    at::Tensor y = at::mm(x, x);
    if (planted && y[0][0].item<float>() > 0) y = y * 2;
    y.relu();
    return scope.log().sum().waits;
  };
  EXPECT_EQ(waits_of(false), 0);
  EXPECT_EQ(waits_of(true), 1);
}

TEST_F(TestDevice, RulesOfCudaHold) {
  const auto bf16 = at::TensorOptions(registered_device()).dtype(at::kBFloat16);
  const at::Tensor x = at::ones({6, 16}, bf16), w = at::ones({2, 8, 16}, bf16);
  const at::Tensor ends = on_device(at::tensor({2, 6}, at::kInt));
  EXPECT_TRUE(at::equal(at::_grouped_mm(x, w.transpose(1, 2), ends).cpu(), at::full({6, 8}, 16, at::kBFloat16)));
  EXPECT_THAT(error_of([&] { at::_grouped_mm(x, w.transpose(1, 2), ends.to(at::kLong)); }), HasSubstr("int32"));
  EXPECT_THAT(error_of([&] { at::_grouped_mm(x.to(at::kFloat), w.transpose(1, 2), ends); }), HasSubstr("bfloat16"));
  const at::Tensor narrow = at::ones({6, 12}, bf16), narrow_w = at::ones({2, 8, 12}, bf16);
  EXPECT_THAT(error_of([&] { at::_grouped_mm(narrow, narrow_w.transpose(1, 2), ends); }), HasSubstr("multiple of 16"));
  EXPECT_THAT(error_of([&] { at::_grouped_mm(x, at::ones({6, 8}, bf16), ends); }), HasSubstr("column-major"));
  const at::Tensor wide = at::ones({4, 4}, at::TensorOptions(registered_device()).dtype(at::kDouble));
  EXPECT_THAT(error_of([&] { at::mm(wide, wide); }), HasSubstr("fp64"));
}

struct RememberThread : torch::autograd::Function<RememberThread> {
  static inline std::thread::id backward_thread;
  static at::Tensor forward(torch::autograd::AutogradContext*, const at::Tensor& x) { return x.clone(); }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext*,
                                                 torch::autograd::variable_list grads) {
    backward_thread = std::this_thread::get_id();
    return grads;
  }
};

TEST_F(TestDevice, BackwardRunsOnAThreadOfAutograds) {
  const at::Tensor x = on_device(at::ones({4})).requires_grad_();
  RememberThread::apply(x).sum().backward();
  EXPECT_NE(RememberThread::backward_thread, std::this_thread::get_id());
  EXPECT_TRUE(at::equal(x.grad().cpu(), at::ones({4})));
}

TEST_F(TestDevice, LogCounts) {
  const at::Tensor x = on_device(at::ones({100}));
  const DeviceLogScope scope;
  x.add(x).sum().item<float>();
  const DeviceLog log = scope.log();
  EXPECT_EQ(log.operators.at("aten::add.out").launches, 1);
  EXPECT_EQ(log.operators.at("aten::add.out").bytes, 3 * 400);
  EXPECT_EQ(log.sum().waits, 1) << log.table();
}

}  // namespace
}  // namespace moraine::testing_support
