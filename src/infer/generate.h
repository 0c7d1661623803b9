// Text from a model and its adapter, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "adapter/adapter_state.h"
#include "checkpoint/loaded_model.h"

namespace moraine {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  double temperature = 0;  // 0 = greedy
  uint64_t seed = 0;
  std::vector<int64_t> stop_ids;  // generation ends before one of these is returned
};

// The new tokens after `prompt_ids` (not empty). `on_token` is called with each of them as it is made. All ranks of
// `world` must call this: rank 0 has the sequence, and its prompt_ids, options and on_token count; the others serve it
// their experts and weights, pass for pass, and return nothing.
std::vector<int64_t> generate(LoadedModel& loaded, const AdapterState* adapter, const std::vector<int64_t>& prompt_ids,
                              const GenerateOptions& options, const std::function<void(int64_t)>& on_token,
                              ProcessGroup& world);

// eos_token_id (a number or a list) of generation_config.json in the folder, and where that has none of config.json (a
// multimodal model's in text_config), as in transformers.
std::vector<int64_t> stop_ids_of(const std::filesystem::path& model_folder);

}  // namespace moraine
