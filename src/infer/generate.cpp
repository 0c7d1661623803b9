#include "infer/generate.h"

#include <algorithm>
#include <set>

#include "base/json.h"
#include "base/path.h"
#include "base/random.h"
#include "run/batch.h"
#include "train/pass.h"

namespace moraine {
namespace {

Batch batch_of(const std::vector<int64_t>& ids, int64_t first_position, const LoadedModel& loaded) {
  Sample sample;
  sample.input_ids = ids;
  sample.labels.assign(ids.size(), kNotTrained);
  for (size_t i = 0; i < ids.size(); ++i) sample.position_ids.push_back(first_position + static_cast<int64_t>(i));
  // A cache takes what there is; whole sequences get lengths that kernels are there for.
  return make_batch({&sample}, loaded.device, loaded.model->has_cache() ? 1 : loaded.row_alignment);
}

// `draw` in [0, 1): the first token whose cumulative probability exceeds it.
int64_t choose(const at::Tensor& logits_V, double temperature, double draw) {
  if (temperature <= 0) return logits_V.argmax().item<int64_t>();
  at::Tensor cumulative = at::softmax(logits_V.to(at::kDouble) / temperature, 0).cumsum(0);
  const int64_t chosen =
      at::searchsorted(cumulative, draw * cumulative[-1].item<double>(), false, true).item<int64_t>();
  return std::min(chosen, logits_V.size(0) - 1);
}

// Rank 0's answer, on all ranks.
bool agreed(bool answer_of_rank0, at::Device device, ProcessGroup& world) {
  const at::Tensor answer = at::full({1}, answer_of_rank0 ? 1 : 0, at::TensorOptions().dtype(at::kLong).device(device));
  world.broadcast(answer, 0);
  return answer.item<int64_t>() != 0;
}

}  // namespace

std::vector<int64_t> generate(LoadedModel& loaded, const AdapterState* adapter, const std::vector<int64_t>& prompt_ids,
                              const GenerateOptions& options, const std::function<void(int64_t)>& on_token,
                              ProcessGroup& world) {
  at::NoGradGuard no_grad;
  const bool leads = world.rank() == 0;
  const CounterRandom random(options.seed, "generate");
  const bool has_cache = loaded.model->has_cache();
  std::vector<LayerCache> caches(loaded.model->shape().num_hidden_layers);
  std::vector<int64_t> sequence = prompt_ids, generated;
  int64_t cached = 0;  // tokens of the sequence that the caches know
  for (bool goes_on = true; goes_on;) {
    // Without a sequence there is nothing to attend to: a batch of no tokens takes part in what ranks do together.
    const std::vector<int64_t> next(sequence.begin() + cached, sequence.end());
    const Batch batch = leads ? batch_of(next, cached, loaded) : make_batch({}, loaded.device, 1);
    const at::Tensor hidden = forward(loaded, adapter, batch, leads && has_cache ? &caches : nullptr);
    const ImageView& root = loaded.weights->acquire(kRootImage);
    if (leads) {
      if (has_cache) cached = static_cast<int64_t>(sequence.size());
      const at::Tensor last = hidden.narrow(0, static_cast<int64_t>(next.size()) - 1, 1);
      const LayerAdapter outer = outer_adapter(adapter, batch);
      const at::Tensor logits = head_logits(last, loaded.model->head_weight_VD(root), outer.find(kHeadModule));
      const int64_t token = choose(logits[0].to(at::kFloat), options.temperature, random.uniform(generated.size()));
      goes_on = std::find(options.stop_ids.begin(), options.stop_ids.end(), token) == options.stop_ids.end();
      if (goes_on) {
        generated.push_back(token);
        on_token(token);
        goes_on = static_cast<int64_t>(generated.size()) < options.max_new_tokens;
        sequence.push_back(token);
      }
    }
    loaded.weights->release(kRootImage);
    goes_on = agreed(goes_on, loaded.device, world);
  }
  return generated;
}

std::vector<int64_t> stop_ids_of(const std::filesystem::path& model_folder) {
  std::set<int64_t> ids;
  const auto add_from = [&](const Json& config) {
    auto it = config.find("eos_token_id");
    if (it == config.end()) return;
    if (it->is_number_integer()) ids.insert(it->get<int64_t>());
    if (it->is_array()) {
      for (const Json& id : *it)
        if (id.is_number_integer()) ids.insert(id.get<int64_t>());
    }
  };
  for (const char* name : {"generation_config.json", "config.json"}) {
    if (!path_exists(model_folder / name)) continue;
    const Json config = read_json_file(model_folder / name);
    add_from(config);
    if (auto text = config.find("text_config"); text != config.end() && text->is_object()) add_from(*text);
    if (!ids.empty()) break;
  }
  return {ids.begin(), ids.end()};
}

}  // namespace moraine
