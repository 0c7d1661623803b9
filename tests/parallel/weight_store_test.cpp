// Images that a store copies to a device while others are used, on the test device.
#include "parallel/weight_store.h"

#include <gmock/gmock.h>

#include "device/device_streams.h"
#include "device/test_device.h"

namespace moraine {
namespace {

constexpr int64_t kBytes = 4096;

// Two images of one lane, which take turns in two buffers.
std::unique_ptr<WeightStore> offloaded_images() {
  const c10::Device device = testing_support::registered_device();
  std::vector<StoredImage> images;
  for (const char* name : {"first", "second", "third"}) {
    StoredImage stored;
    stored.image = {name, {{"weight", DType::kU8, {kBytes}, 0, kBytes, {}}}, kBytes};
    stored.shard = at::full({kBytes}, static_cast<int64_t>(images.size()) + 1, at::kByte).pin_memory();
    stored.offloaded = true;
    images.push_back(std::move(stored));
  }
  return std::make_unique<WeightStore>(std::move(images), 0, device);
}

// The host waits for nothing meanwhile, so buffers are taken and read in the order that events give.
TEST(WeightStore, CopiesWhatIsOffloadedWhileAnotherImageIsUsed) {
  const std::unique_ptr<WeightStore> store = offloaded_images();
  std::vector<at::Tensor> found;
  {
    const testing_support::NoHostWaits none;
    for (int image : {0, 1, 2, 0, 1, 2}) {
      const at::Tensor& weight = store->acquire(image)["weight"];
      store->prefetch((image + 1) % 3);
      found.push_back(weight.clone());
      store->release(image);
    }
  }
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(at::equal(found[i].cpu(), at::full({kBytes}, static_cast<int64_t>(i % 3) + 1, at::kByte))) << i;
}

TEST(HostCopies, AreSeenAfterTheirWait) {
  const c10::Device device = testing_support::registered_device();
  const at::Tensor from = at::full({kBytes}, 7, at::kByte).pin_memory();
  const at::Tensor to = at::zeros({kBytes}, from.options().device(device).pinned_memory(false));
  HostCopies copies(device);
  HostCopy copy = copies.start(to, from);
  EXPECT_THROW(to.clone(), c10::Error);  // may still be written
  copy.wait();
  EXPECT_TRUE(at::equal(to.clone().cpu(), from));
}

// As a run that ends by an error leaves it: the copy's source and buffer are given up while the copy runs.
TEST(WeightStore, ThatEndsWaitsForCopiesInFlight) {
  try {
    const std::unique_ptr<WeightStore> store = offloaded_images();
    store->acquire(0);
    store->prefetch(1);
    throw std::runtime_error("a step fails");
  } catch (const std::runtime_error&) {
  }
  EXPECT_THAT(testing_support::take_faults(), testing::IsEmpty());
}

}  // namespace
}  // namespace moraine
