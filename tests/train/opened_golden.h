// A model of tests/golden, loaded onto the test_device(), with the batch that its reference data are of.
#pragma once

#include "adapter/open_adapter.h"
#include "checkpoint/loaded_model.h"
#include "device/test_device.h"
#include "golden.h"
#include "infer/score.h"
#include "run/batch.h"

namespace moraine {

inline LoadSettings on_test_device(LoadSettings settings) {
  settings.device = testing_support::test_device();
  return settings;
}

struct Golden {
  std::filesystem::path folder;
  MeshGroups groups = single_rank_groups();
  LoadedModel loaded;
  TokensFile batch;
  at::Tensor mask;  // bool [B, T]

  explicit Golden(const std::string& name, DtypeChoice dtype = DtypeChoice::kAuto, LoadSettings settings = {})
      : folder(golden_folder(name)),
        loaded(open_model(folder / "model", dtype, on_test_device(std::move(settings)), groups)),
        batch(golden_batch(folder / "batch.safetensors")),
        mask(golden_tensor(folder / "batch.safetensors", "attention_mask").to(at::kBool)) {}

  OpenedAdapter adapter(const std::string& which = "adapter") {
    return open_adapter(loaded.model->layout(), folder / "lora" / which, loaded.experts->local_experts(),
                        loaded.device);
  }
  // What the reference found in its forward pass without an adapter.
  at::Tensor forward(const std::string& name) const { return golden_tensor(folder / "forward.safetensors", name); }
  // Of x_BT…, the rows that are not padding.
  at::Tensor at_tokens(const at::Tensor& x_BT) const { return x_BT.index({mask}); }
  Batch one_batch(int64_t alignment = 1) const {
    std::vector<const Sample*> samples;
    for (const Sample& sample : batch.samples) samples.push_back(&sample);
    return make_batch(samples, loaded.device, alignment);
  }
};

}  // namespace moraine
