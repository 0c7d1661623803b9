// Mistakes that a GPU would punish, planted in the layers of a golden model that trains on the test device: each kind
// is found, and named.
#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "device/device_streams.h"
#include "opened_golden.h"
#include "parallel/host_copy.h"
#include "train/step.h"

namespace moraine {
namespace {

using testing::HasSubstr;
using Layer = std::function<at::Tensor(const at::Tensor& output)>;

// A model whose layers' outputs go through `planted`.
class PlantedModel : public Model {
 public:
  PlantedModel(std::shared_ptr<const Model> model, Layer planted)
      : model_(std::move(model)), planted_(std::move(planted)) {}
  const ModelLayout& layout() const override { return model_->layout(); }
  at::Tensor embed(const ImageView& root, const Batch& batch, const LoraPair* lora) const override {
    return model_->embed(root, batch, lora);
  }
  at::Tensor forward_layer(const LayerScope& scope, const at::Tensor& hidden) const override {
    return planted_(model_->forward_layer(scope, hidden));
  }
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const override {
    return model_->final_norm(root, hidden);
  }
  at::Tensor head_weight_VD(const ImageView& root) const override { return model_->head_weight_VD(root); }

 private:
  std::shared_ptr<const Model> model_;
  Layer planted_;
};

class DevicePlanted : public testing::Test {
 protected:
  void SetUp() override {
    if (testing_support::test_device().type() != c10::kPrivateUse1) GTEST_SKIP() << "found by the test device";
  }
  // Whatever a test left behind.
  void TearDown() override {
    if (testing_support::test_device().type() == c10::kPrivateUse1)
      testing_support::device_guard().synchronizeDevice(0);
    testing_support::take_faults();
  }

  // A step of training with the mistake; its loss.
  double step(const Layer& planted) {
    Golden golden("qwen3_moe-fp32");
    golden.loaded.model = std::make_shared<PlantedModel>(golden.loaded.model, planted);
    OpenedAdapter adapter = golden.adapter();
    TrainConfig config;
    AdamW optimizer(adapter.state, config);
    std::vector<TrainingRow> rows{{&golden.batch.samples[0]}};
    return train_step(golden.loaded, adapter.state, optimizer, rows, config, 1e-3, golden.groups).loss;
  }
  std::string error_of(const Layer& planted) {
    try {
      step(planted);
    } catch (const std::exception& error) {
      return error.what();
    }
    return "no error";
  }
  int64_t waits_of(const Layer& planted) {
    const testing_support::DeviceLogScope log;
    step(planted);
    return log.log().sum().waits;
  }
};

TEST_F(DevicePlanted, NothingIsFoundWithoutAMistake) {
  EXPECT_EQ(error_of([](const at::Tensor& x) { return x; }), "no error");
  EXPECT_THAT(testing_support::take_faults(), testing::IsEmpty());
}

TEST_F(DevicePlanted, HostThatReadsAPointer) {
  const Layer planted = [](const at::Tensor& x) {
    const float first = *static_cast<volatile const float*>(x.const_data_ptr<float>());
    return x * (first > 0 ? 1.0 : 0.5);
  };
  EXPECT_EXIT(step(planted), testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(DevicePlanted, TensorMadeOnTheHost) {
  EXPECT_THAT(error_of([](const at::Tensor& x) { return x + at::zeros({x.size(-1)}); }),
              HasSubstr("on the same device"));
}

// A budget has no room for it: forward and recomputation of each layer wait once more.
TEST_F(DevicePlanted, Item) {
  const Layer none = [](const at::Tensor& x) { return x; };
  const Layer planted = [](const at::Tensor& x) { return x.detach().abs().max().item<float>() > 1e30 ? x / 2 : x; };
  const Golden golden("qwen3_moe-fp32");
  EXPECT_EQ(waits_of(planted), waits_of(none) + 2 * golden.loaded.model->shape().num_hidden_layers);
}

// A copy from the host's memory that is read as soon as it is started.
TEST_F(DevicePlanted, MissingWait) {
  for (const bool waits : {true, false}) {
    HostCopies copies(testing_support::test_device());
    const Layer planted = [&](const at::Tensor& x) {
      const at::Tensor host = at::ones({x.size(-1)}).pin_memory(), scale = at::zeros_like(x[0]).detach();
      HostCopy copy = copies.start(scale, host);
      if (waits) copy.wait();
      return x * scale;
    };
    EXPECT_THAT(error_of(planted), HasSubstr(waits ? "no error" : "may still be writing"));
  }
}

// Work on a second stream that begins before its input is there, or is read before it is done.
TEST_F(DevicePlanted, WrongOrderOfStreams) {
  const c10::impl::DeviceGuardImplInterface& guard = testing_support::device_guard();
  const c10::Device device = testing_support::test_device();
  const c10::Stream side = guard.getNewStream(device, 0);
  const auto order = [&](const c10::Stream& first, const c10::Stream& second) {
    c10::Event event(device.type());
    event.record(first);
    event.block(second);
  };
  for (const auto& [before, after] : {std::pair{true, true}, {false, true}, {true, false}}) {
    std::vector<at::Tensor> kept;  // as a layer must that computes on two streams
    const Layer planted = [&](const at::Tensor& x) {
      const c10::Stream main = guard.getStream(device);
      if (before) order(main, side);
      at::Tensor shifted;
      {
        at::NoGradGuard no_grad;
        const c10::StreamGuard on_side(side);
        shifted = x.detach() * 0;
      }
      kept.push_back(x.detach());
      kept.push_back(shifted);
      if (after) order(side, main);
      return x + shifted;
    };
    EXPECT_THAT(error_of(planted), HasSubstr(before && after ? "no error" : "may still be writing")) << before << after;
    guard.synchronizeDevice(0);
  }
}

}  // namespace
}  // namespace moraine
