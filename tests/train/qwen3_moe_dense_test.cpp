// What the main Qwen3-MoE references leave out, against transformers + PEFT (tools/make_qwen3_moe_dense_fixture.py):
// dense layers, tied embeddings, attention biases, top-k weights as they are, fused 3-D experts in a single file.
#include <gtest/gtest.h>

#include "adapter/open_adapter.h"
#include "adapter/peft_export.h"
#include "golden.h"
#include "infer/score.h"

namespace moraine {
namespace {

TEST(Qwen3MoeDense, LogitsLossAndGradients) {
  const auto folder = golden_folder("qwen3_moe-dense");
  MeshGroups groups = single_rank_groups();
  LoadedModel loaded =
      open_model(folder / "model", DtypeChoice::kAuto, {.device = testing_support::test_device()}, groups);
  const TokensFile batch = golden_batch(folder / "batch.safetensors");
  const at::Tensor mask = golden_tensor(folder / "batch.safetensors", "attention_mask").to(at::kBool);
  OpenedAdapter adapter =
      open_adapter(loaded.model->layout(), folder / "adapter", loaded.experts->local_experts(), loaded.device);
  for (const bool adapted : {false, true}) {
    const std::string prefix = adapted ? "lora." : "";
    const ScoreResult result =
        score(loaded, adapted ? &adapter.state : nullptr, batch, "batch", {.logits = true}, groups);
    const at::Tensor expected = golden_tensor(folder / "forward.safetensors", prefix + "logits");
    EXPECT_LT(relative_error(result.logits.index({mask}), expected.index({mask})), 1e-4);
    EXPECT_NEAR(result.loss, golden_tensor(folder / "forward.safetensors", prefix + "loss").item<float>(), 1e-5);
  }
  score(loaded, &adapter.state, batch, "batch", {.grads = true}, groups);
  const SafetensorsHeader reference = read_safetensors_header(folder / "grads.safetensors");
  const auto grads = peft_tensors(adapter.state, AdapterPart::kGrads, *groups.ep);
  ASSERT_EQ(grads.size(), reference.entries.size());
  for (const auto& [name, grad] : grads)
    EXPECT_LT(relative_error(grad, read_tensor(reference, *reference.find(name))), 1e-4) << name;
}

}  // namespace
}  // namespace moraine
