// NCCL's collectives as process_group.cpp calls them, in a group of one rank: a group that the program never makes, but
// on a machine with one GPU all of NCCL that can be run. Skipped with a word without a GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "distributed/collectives/backend.h"
#include "distributed/collectives/device.h"
#ifdef USE_C10D_NCCL
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#endif

namespace moraine {
namespace {

class Nccl : public testing::Test {
 protected:
  void SetUp() override {
#ifndef USE_C10D_NCCL
    GTEST_SKIP() << "NCCL is not in this build (MORAINE_CUDA)";
#endif
    if (visible_cuda_devices() == 0) GTEST_SKIP() << "no CUDA device is here";
    use_device(device_, /*deterministic=*/false);
  }

  const c10::Device device_{c10::kCUDA, 0};
};

#ifdef USE_C10D_NCCL

using Collective = c10::intrusive_ptr<c10d::Work>;

// Backends of groups of this rank alone.
class OneRank {
 public:
  explicit OneRank(c10::Device device) : backends_(WorldInfo{}, BackendKind::kNccl, std::chrono::minutes(1), device) {}
  c10::intrusive_ptr<c10d::Backend> group(const std::string& name) {
    return backends_.make(BackendKind::kNccl, c10::make_intrusive<c10d::HashStore>(), 0, 1, name);
  }

 private:
  BackendFactory backends_;
};

TEST_F(Nccl, EveryCollectiveDelivers) {
  OneRank rank(device_);
  const auto group = rank.group("world");
  const auto on_device = [&](const at::Tensor& x) { return x.to(device_); };
  const at::Tensor bytes = on_device(at::arange(0, 3000, at::kLong).to(at::kByte));
  const auto arrives = [&](const Collective& work, const at::Tensor& found, const at::Tensor& wanted,
                           const char* what) {
    work->wait();
    EXPECT_TRUE(at::equal(found.cpu(), wanted.cpu())) << what;
    EXPECT_TRUE(work->isCompleted()) << what;
  };
  const auto none = [&](const Collective& work, const char* what) {
    work->wait();
    at::accelerator::synchronizeDevice(device_.index());
    EXPECT_TRUE(work->isCompleted()) << what;
  };

  // Gathers: into another tensor, in place, and of nothing.
  at::Tensor out = at::zeros_like(bytes), in = bytes.clone();
  arrives(group->_allgather_base(out, in), out, bytes, "all-gather");
  at::Tensor whole = bytes.clone(), part = whole.narrow(0, 0, whole.numel());
  arrives(group->_allgather_base(whole, part), whole, bytes, "all-gather in place");

  // Exchanges of tokens: splits in bytes, and none at all.
  std::vector<int64_t> all{bytes.numel()}, zero{0};
  out = at::zeros_like(bytes);
  arrives(group->alltoall_base(out, in, all, all), out, bytes, "all-to-all");
  at::Tensor no_output = at::empty({0}, bytes.options()), no_input = at::empty({0}, bytes.options());
  none(group->alltoall_base(no_output, no_input, zero, zero), "all-to-all of nothing");

  // Sums, in the dtypes of losses, gradients and counts; and what ranks agree on.
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kLong}) {
    const at::Tensor values = on_device(at::arange(1, 65, at::kLong).to(dtype));
    std::vector<at::Tensor> tensors{values.clone()};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::SUM;
    arrives(group->allreduce(tensors, options), tensors[0], values, "sum");
  }
  for (const auto kind : {c10d::ReduceOp::MIN, c10d::ReduceOp::MAX}) {
    const at::Tensor values = on_device(at::tensor({3, -1}, at::kLong));
    std::vector<at::Tensor> tensors{values.clone()};
    c10d::AllreduceOptions options;
    options.reduceOp = kind;
    arrives(group->allreduce(tensors, options), tensors[0], values, "min, max");
  }
  at::Tensor sums = on_device(at::arange(8, at::kFloat)), own = at::zeros_like(sums);
  arrives(group->_reduce_scatter_base(own, sums), own, sums, "reduce-scatter");

  std::vector<at::Tensor> told{bytes.clone()};
  arrives(group->broadcast(told, c10d::BroadcastOptions()), told[0], bytes, "broadcast");
  none(group->barrier(), "barrier");
  group->shutdown();
}

// The stream that computes goes on when wait() has returned, and sees what arrived; the input was whole when it went.
TEST_F(Nccl, WaitsForTheStreamThatComputesAndTheOtherWayRound) {
  OneRank rank(device_);
  const auto group = rank.group("gather");
  at::Tensor x = at::ones({1 << 20}, at::TensorOptions(device_)), out = at::zeros_like(x);
  for (int round = 0; round < 50; ++round) {
    x.add_(1);  // queued before the gather
    at::Tensor to = out.view(at::kByte), from = x.view(at::kByte);
    const Collective work = group->_allgather_base(to, from);
    work->wait();
    ASSERT_EQ(out.sum().item<float>(), static_cast<float>(out.numel()) * static_cast<float>(round + 2));
  }
  group->shutdown();
}

// Groups as a mesh has them, at work at the same time; what they cost is printed for plans.
TEST_F(Nccl, SevenGroupsAtOnce) {
  const auto free_bytes = [&] {
    at::accelerator::synchronizeDevice(device_.index());
    return static_cast<int64_t>(at::accelerator::getMemoryInfo(device_.index()).first);
  };
  OneRank rank(device_);
  const at::Tensor x = at::ones({1 << 20}, at::TensorOptions(device_));
  std::vector<c10::intrusive_ptr<c10d::Backend>> groups;
  const int64_t before = free_bytes();
  for (const char* name : {"world", "tokens", "dense_gather", "expert_gather", "expert_peers", "ep", "ep_fsdp"}) {
    groups.push_back(rank.group(name));
    if (groups.size() == 1) fmt::print("one group: {} bytes\n", before - free_bytes());
  }
  std::vector<std::vector<at::Tensor>> tensors(groups.size());
  std::vector<Collective> works;
  for (size_t i = 0; i < groups.size(); ++i) {
    tensors[i] = {x.clone()};
    works.push_back(groups[i]->allreduce(tensors[i]));
  }
  for (size_t i = 0; i < works.size(); ++i) {
    works[i]->wait();
    EXPECT_TRUE(at::equal(tensors[i][0], x)) << i;
  }
  fmt::print("seven groups: {} bytes\n", before - free_bytes());
  for (const auto& group : groups) group->shutdown();
}

#else

TEST_F(Nccl, EveryCollectiveDelivers) {}

#endif

}  // namespace
}  // namespace moraine
