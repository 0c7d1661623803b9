// What a layer asks of a device: kernels launched, bytes moved and waits of the host, counted on the test device for
// each golden model and kind of layer, at most what tests/golden/device_budgets.json says.
#include <fmt/format.h>

#include <set>

#include "families.h"
#include "models/image_order.h"
#include "models/layer_tape.h"
#include "opened_golden.h"

namespace moraine {
namespace {

using testing_support::DeviceLog;
using testing_support::DeviceLogScope;

const Json& budgets() {
  static const Json table = read_json_file(golden_folder("device_budgets.json"));
  return table;
}

class DeviceBudget : public testing::TestWithParam<std::string> {
 protected:
  // Parts of a layer's work: "forward" as of the first pass, "again" as recomputed for the backward pass, "backward".
  void expect_within(const DeviceLog& log, const std::string& kind, const std::string& part) {
    const DeviceLog::Operator found = log.sum();
    const Json budget = budgets().value(Json::json_pointer("/" + GetParam() + "/" + kind + "/" + part), Json::array());
    const std::string said =
        fmt::format("{} {} {}: [{}, {}, {}]", GetParam(), kind, part, found.launches, found.bytes, found.waits);
    ASSERT_EQ(budget.size(), 3u) << "no budget for " << said;
    EXPECT_LE(found.launches, budget[0].get<int64_t>()) << "launches of " << said << "\n" << log.table();
    EXPECT_LE(found.bytes, budget[1].get<int64_t>()) << "bytes of " << said << "\n" << log.table();
    EXPECT_LE(found.waits, budget[2].get<int64_t>()) << "waits of " << said << "\n" << log.table();
  }
};
INSTANTIATE_TEST_SUITE_P(, DeviceBudget, testing::ValuesIn(testing_support::golden_models()),
                         [](const auto& info) { return testing_support::test_name(info.param); });

TEST_P(DeviceBudget, OfEachKindOfLayer) {
  if (testing_support::test_device().type() != c10::kPrivateUse1) GTEST_SKIP() << "counted on the test device";
  Golden golden(GetParam());
  OpenedAdapter adapter = golden.adapter();
  const Model& model = *golden.loaded.model;
  const Batch batch = golden.one_batch(golden.loaded.row_alignment);
  ForwardContext context;
  context.batch = &batch;
  context.experts = golden.loaded.experts.get();
  at::Tensor hidden;
  {
    at::NoGradGuard no_grad;
    hidden = model.embed(golden.loaded.weights->acquire(kRootImage), batch);
  }
  std::set<int64_t> kinds;
  for (int64_t layer = 0; layer < model.shape().num_hidden_layers; ++layer) {
    if (!kinds.insert(model.layout().layer_kind(layer)).second) continue;
    const std::string kind = "layer " + std::to_string(layer);
    const ImageView &dense = golden.loaded.weights->acquire(dense_image(layer)),
                    &experts = golden.loaded.weights->acquire(experts_image(layer));
    const LayerAdapter layer_adapter = adapter.state.layer_adapter(layer, AdapterState::Gradients::kAdd);
    const auto scope = [&](LayerRecord& record) {
      return LayerScope{layer, dense, experts, layer_adapter, context, record};
    };
    {
      at::NoGradGuard no_grad;
      LayerRecord shared;  // makes what layers share
      model.forward_layer(scope(shared), hidden);
    }
    LayerRecord record;
    {
      at::NoGradGuard no_grad;
      const DeviceLogScope log;
      model.forward_layer(scope(record), hidden);
      expect_within(log.log(), kind, "forward");
    }
    LayerTape tape;
    {
      const DeviceLogScope log;
      tape = run_with_tape(model, scope(record), hidden);
      expect_within(log.log(), kind, "again");
    }
    {
      const at::Tensor grad = at::ones_like(tape.output);
      const DeviceLogScope log;
      backward_of_tape(tape, grad, {});
      expect_within(log.log(), kind, "backward");
    }
  }
}

}  // namespace
}  // namespace moraine
