// FP8 releases against transformers + PEFT (Qwen's: tools/make_qwen_fp8_fixtures.py), and against their own dequantised
// weights.
#include <gtest/gtest.h>

#include "adapter/peft_export.h"
#include "base/temp_folder.h"
#include "checkpoint/rewrite_checkpoint.h"
#include "opened_golden.h"

namespace moraine {
namespace {

class QuantisedFp8 : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(, QuantisedFp8, testing::Values("qwen3_moe-fp8", "qwen3_5_moe-fp8", "deepseek_v3-fp8"),
                         [](const auto& info) {
                           return std::string(info.param).substr(0, std::string(info.param).find('-'));
                         });

TEST_P(QuantisedFp8, LogitsLossAndGradients) {
  Golden golden(GetParam(), DtypeChoice::kFloat32);
  OpenedAdapter adapter = golden.adapter();
  for (const bool adapted : {false, true}) {
    const auto forward = golden.folder / (adapted ? "lora/forward.safetensors" : "forward.safetensors");
    const ScoreResult result = score(golden.loaded, adapted ? &adapter.state : nullptr, golden.batch, "batch",
                                     {.logits = true}, golden.groups);
    EXPECT_LT(relative_error(golden.at_tokens(result.logits), golden.at_tokens(golden_tensor(forward, "logits"))),
              1e-4);
    EXPECT_NEAR(result.loss, golden_tensor(forward, "loss").item<float>(), 1e-5);
  }
  score(golden.loaded, &adapter.state, golden.batch, "batch", {.grads = true}, golden.groups);
  const SafetensorsHeader reference = read_safetensors_header(golden.folder / "lora" / "grads.safetensors");
  const auto grads = peft_tensors(adapter.state, AdapterPart::kGrads, *golden.groups.ep);
  ASSERT_EQ(grads.size(), reference.entries.size());
  for (const auto& [name, grad] : grads)
    EXPECT_LT(relative_error(grad, read_tensor(reference, *reference.find(name))), 1e-4) << name;
}

// Logits and gradients have the bits of the plain checkpoint, in the dtype that it is computed in.
TEST_P(QuantisedFp8, EqualsItsDequantisedCheckpoint) {
  for (const auto& [dtype, choice] :
       {std::pair{DType::kF32, DtypeChoice::kFloat32}, {DType::kBF16, DtypeChoice::kBFloat16}}) {
    TempFolder folder;
    Golden stored(GetParam(), choice);
    rewrite_checkpoint(open_checkpoint(stored.folder / "model", DtypeChoice::kBFloat16), folder / "plain",
                       {.dtype = dtype});
    MeshGroups groups = single_rank_groups();
    LoadedModel plain = open_model(folder / "plain", choice, {.device = stored.loaded.device}, groups);
    const auto run = [&](LoadedModel& loaded) {
      OpenedAdapter adapter = open_adapter(loaded.model->layout(), stored.folder / "lora" / "adapter",
                                           loaded.experts->local_experts(), loaded.device);
      const ScoreResult result =
          score(loaded, &adapter.state, stored.batch, "batch", {.logits = true, .grads = true}, groups);
      return std::pair(result.logits, at::cat({adapter.state.dense().grads, adapter.state.experts().grads}).clone());
    };
    const auto [logits, grads] = run(stored.loaded);
    const auto [plain_logits, plain_grads] = run(plain);
    EXPECT_TRUE(at::equal(logits, plain_logits)) << word_of(choice);
    EXPECT_TRUE(at::equal(grads, plain_grads)) << word_of(choice);
    EXPECT_GT(grads.abs().max().item<double>(), 0);
  }
}

}  // namespace
}  // namespace moraine
