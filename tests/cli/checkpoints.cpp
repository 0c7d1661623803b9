#include "cli/checkpoints.h"

#include <algorithm>

#include "golden.h"

namespace moraine {

Json tiny_config() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"model_type", "qwen3_moe"},
          {"vocab_size", 96},
          {"hidden_size", 32},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"num_experts", 6},
          {"num_experts_per_tok", 2},
          {"moe_intermediate_size", 16},
          {"intermediate_size", 64},
          {"decoder_sparse_step", 1},
          {"mlp_only_layers", {0}},
          {"norm_topk_prob", true},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false},
          {"initializer_range", 0.5},
          {"torch_dtype", "bfloat16"}};
}

std::filesystem::path copy_golden_model(const TempFolder& into) {
  const std::filesystem::path copy = into / "model";
  std::filesystem::copy(golden_folder("qwen3_moe-fp32") / "model", copy, std::filesystem::copy_options::recursive);
  return copy;
}

std::filesystem::path write_tokens(const TempFolder& into, const std::string& name, const std::vector<int64_t>& ids) {
  const at::Tensor row = at::tensor(ids, at::TensorOptions().dtype(at::kLong)).unsqueeze(0);
  write_tensors(into / name, {{"input_ids", row}, {"labels", row}});
  return into / name;
}

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace moraine
