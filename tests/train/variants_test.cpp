// LoRA's variants against transformers + PEFT: the curves that tests/export/variants_test.py stored.
#include <gtest/gtest.h>

#include "adapter/make_adapter.h"
#include "base/json.h"
#include "config/recipe.h"
#include "opened_golden.h"
#include "train/step.h"

namespace moraine {
namespace {

TEST(Variants, TrainAsInPeft) {
  const Json cases = read_json_file(golden_folder("variants.json"));
  ASSERT_FALSE(cases.empty());
  for (const auto& [title, expected] : cases.items()) {
    Golden golden("qwen3_moe-fp32", DtypeChoice::kFloat32);
    const Recipe recipe = recipe_from_overrides(expected["overrides"].get<std::vector<std::string>>());
    OpenedAdapter adapter = make_adapter(golden.loaded.model->layout(), recipe.adapter, "model",
                                         golden.loaded.experts->local_experts(), golden.loaded.device);
    AdamW optimizer(adapter.state, recipe.train);
    std::vector<TokensFile> batches;
    for (const char* prefix : {"0.", "1.", "2."})
      batches.push_back(golden_batch(golden.folder / "lora" / "train_batches.safetensors", prefix));
    for (int64_t step = 0; step < 12; ++step) {
      std::vector<TrainingRow> rows;
      for (const Sample& sample : batches[step % 3].samples) rows.push_back({&sample});
      const StepResult result = train_step(golden.loaded, adapter.state, optimizer, rows, recipe.train,
                                           scheduled_learning_rate(recipe.train, step, 12), golden.groups);
      EXPECT_NEAR(result.loss, expected["steps"][step][0].get<double>(), 1e-4) << title << ", step " << step;
      EXPECT_NEAR(result.grad_norm / expected["steps"][step][1].get<double>(), 1, 1e-4) << title << ", step " << step;
    }
  }
}

}  // namespace
}  // namespace moraine
