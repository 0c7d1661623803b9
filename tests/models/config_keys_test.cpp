// Every key of a family's configuration class in transformers is read, or is known not to change the mathematics.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "families.h"
#include "golden_headers.h"
#include "models/registry.h"

namespace moraine {
namespace {

using testing_support::golden_models;
using testing_support::GoldenHeaders;
using testing_support::tests_folder;

// For all families, and why.
const std::map<std::string, std::string> kHarmless{
    {"bos_token_id", "the tokenizer's"},
    {"eos_token_id", "generate reads it itself"},
    {"pad_token_id", "there is no padding"},
    {"initializer_range", "of weights that are loaded"},
    {"max_position_embeddings", "a length, no formula"},
    {"output_router_logits", "the recipe says train.aux_loss_coef"},
    {"router_aux_loss_coef", "the recipe says train.aux_loss_coef"},
    {"use_cache", "generate's own matter"},
    {"num_mtp_layers", "another name of num_nextn_predict_layers"},
    {"pretraining_tp", "how the release was trained"},
};
// For one.
const std::map<std::string, std::map<std::string, std::string>> kHarmlessThere{
    {"deepseek_v4",
     {{"n_shared_experts", "always one"},
      {"norm_topk_prob", "always"},
      {"num_nextn_predict_layers", "those tensors have names of their own"},
      {"rope_parameters", "the golden has rope_scaling, which is read instead"}}},
    {"dots1", {{"max_window_layers", "counts with sliding_window alone"}}},
    {"qwen2_moe",
     {{"max_window_layers", "counts with use_sliding_window alone, which is refused"},
      {"sliding_window", "counts with use_sliding_window alone, which is refused"}}},
    {"qwen3_moe",
     {{"num_local_experts", "another name of num_experts"},
      {"sliding_window", "counts with use_sliding_window alone"}}},
};

TEST(ConfigKeys, OfEveryFamilyAreReadOrHarmless) {
  const Json table = read_json_file(tests_folder() / "golden" / "config_keys.json");
  std::set<std::string> families_seen;
  for (const std::string& golden : golden_models({"fp32"})) {
    HfConfig config = GoldenHeaders(golden).config;
    std::set<std::string> read;
    config.record_keys(read);
    make_layout(config, DtypeChoice::kFloat32);
    const HfConfig text = config.has("text_config") ? config.object("text_config") : config;
    const std::string type = text.text("model_type", "");
    ASSERT_TRUE(table.contains(type)) << golden << ": tools/make_config_keys.py knows no " << type;
    families_seen.insert(type);
    const auto there = kHarmlessThere.find(type);
    for (const std::string key : table[type])
      EXPECT_TRUE(read.contains(key) || kHarmless.contains(key) ||
                  (there != kHarmlessThere.end() && there->second.contains(key)))
          << golden << ": " << key << " is not read";
  }
  EXPECT_EQ(families_seen.size(), table.size());
}

}  // namespace
}  // namespace moraine
