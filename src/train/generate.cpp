#include "train/generate.h"

#include <algorithm>
#include <set>

#include "base/random.h"
#include "train/pass.h"

namespace moraine {
namespace {

Batch batch_of(const std::vector<int64_t>& ids, int64_t first_position, at::Device device) {
  Batch batch;
  const auto options = at::TensorOptions().dtype(at::kLong);
  const int64_t n = static_cast<int64_t>(ids.size());
  batch.input_ids_T = at::tensor(ids, options).to(device);
  batch.position_ids_T = at::arange(first_position, first_position + n, options).to(device);
  batch.targets_T = at::full({n}, -100, options.device(device));
  batch.cu_seqlens.push_back(n);
  return batch;
}

// `draw` in [0, 1): the first token whose cumulative probability exceeds it.
int64_t choose(const at::Tensor& logits_V, double temperature, double draw) {
  if (temperature <= 0) return logits_V.argmax().item<int64_t>();
  at::Tensor cumulative = at::softmax(logits_V.to(at::kDouble) / temperature, 0).cumsum(0);
  const int64_t chosen = at::searchsorted(cumulative, draw * cumulative[-1].item<double>(), false, true).item<int64_t>();
  return std::min(chosen, logits_V.size(0) - 1);
}

}  // namespace

std::vector<int64_t> generate(LoadedModel& loaded, const AdapterState* adapter, const std::vector<int64_t>& prompt_ids,
                              const GenerateOptions& options, const std::function<void(int64_t)>& on_token) {
  at::NoGradGuard no_grad;
  const CounterRandom random(options.seed, "generate");
  std::vector<KvCache> caches(loaded.model->shape().num_hidden_layers);
  std::vector<int64_t> next = prompt_ids, generated;
  int64_t position = 0;
  while (static_cast<int64_t>(generated.size()) < options.max_new_tokens) {
    const at::Tensor hidden = forward(loaded, adapter, batch_of(next, position, loaded.device), &caches);
    position += static_cast<int64_t>(next.size());
    const ImageView& root = loaded.weights->acquire(LoadedModel::kRootImage);
    const at::Tensor logits = at::mm(hidden.narrow(0, hidden.size(0) - 1, 1), loaded.model->head_weight_VD(root).t());
    loaded.weights->release(LoadedModel::kRootImage);
    const int64_t token = choose(logits[0].to(at::kFloat), options.temperature, random.uniform(generated.size()));
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), token) != options.stop_ids.end()) break;
    generated.push_back(token);
    on_token(token);
    next = {token};
  }
  return generated;
}

std::vector<int64_t> stop_ids_of(const std::filesystem::path& model_folder) {
  std::set<int64_t> ids;
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!std::filesystem::exists(model_folder / name)) continue;
    const Json config = read_json_file(model_folder / name);
    auto it = config.find("eos_token_id");
    if (it == config.end()) continue;
    if (it->is_number_integer()) ids.insert(it->get<int64_t>());
    if (it->is_array()) {
      for (const Json& id : *it)
        if (id.is_number_integer()) ids.insert(id.get<int64_t>());
    }
  }
  return {ids.begin(), ids.end()};
}

}  // namespace moraine
