#include "train/pass.h"

#include "models/layer_tape.h"
#include "parallel/layer_turns.h"

namespace moraine {
namespace {

// The weights of one layer, held for as long as this object lives.
class LayerWeights {
 public:
  LayerWeights(WeightStore& store, int64_t layer)
      : store_(store),
        dense_(dense_image(layer)),
        experts_(experts_image(layer)),
        dense(store.acquire(dense_)),
        experts(store.acquire(experts_)) {}
  ~LayerWeights() {
    store_.release(experts_);
    store_.release(dense_);
  }
  LayerWeights(const LayerWeights&) = delete;
  LayerWeights& operator=(const LayerWeights&) = delete;

 private:
  WeightStore& store_;
  int dense_, experts_;

 public:
  const ImageView &dense, &experts;
};

// The root's weights, held likewise.
class RootWeights {
 public:
  explicit RootWeights(WeightStore& store) : store_(store), view(store.acquire(kRootImage)) {}
  ~RootWeights() { store_.release(kRootImage); }
  RootWeights(const RootWeights&) = delete;
  RootWeights& operator=(const RootWeights&) = delete;

 private:
  WeightStore& store_;

 public:
  const ImageView& view;
};

// Starts gathering the next layer's weights while another layer runs.
void prefetch_next(WeightStore& store, const LayerTurn& turn) {
  if (!turn.next) return;
  store.prefetch(dense_image(*turn.next));
  store.prefetch(experts_image(*turn.next));
}

// The tape of a layer and the weights that its backward pass needs.
struct HeldTape {
  std::unique_ptr<LayerWeights> weights;
  LayerTape tape;
};

// The weights of turn.next are gathered meanwhile.
HeldTape hold_tape(LoadedModel& loaded, const AdapterState& adapter, const LayerTurn& turn, const at::Tensor& input,
                   const ForwardContext& context, LayerRecord& record) {
  const int64_t layer = turn.layer;
  auto weights = std::make_unique<LayerWeights>(*loaded.weights, layer);
  prefetch_next(*loaded.weights, turn);
  const LayerAdapter layer_adapter =
      adapter.layer_adapter(layer, AdapterState::Gradients::kAdd, context.batch->dropout_keys_T);
  const LayerScope scope{layer, weights->dense, weights->experts, layer_adapter, context, record};
  LayerTape tape = run_with_tape(*loaded.model, scope, input);
  return {std::move(weights), std::move(tape)};
}

// The first layer that a gradient must pass; with the head's adapter alone there is none.
int64_t first_trained_layer(const AdapterState& adapter) {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const AdapterEntry& entry : adapter.entries()) first = std::min(first, entry.module.layer);
  return std::max<int64_t>(first, 0);
}

ForwardContext make_context(const LoadedModel& loaded, const Batch& batch, std::vector<LayerCache>* caches,
                            bool balance) {
  ForwardContext context;
  context.batch = &batch;
  context.experts = loaded.experts.get();
  context.caches = caches;
  context.balance = balance;
  return context;
}

}  // namespace

LayerAdapter outer_adapter(const AdapterState* adapter, const Batch& batch) {
  return adapter ? adapter->outer_adapter(AdapterState::Gradients::kNo, batch.dropout_keys_T) : LayerAdapter{};
}

at::Tensor forward(LoadedModel& loaded, const AdapterState* adapter, const Batch& batch,
                   std::vector<LayerCache>* caches, std::vector<LayerRecord>* records) {
  at::NoGradGuard no_grad;
  at::AutoDispatchBelowADInplaceOrView no_autograd;
  const ForwardContext context = make_context(loaded, batch, caches, records != nullptr);
  RootWeights root(*loaded.weights);
  at::Tensor hidden = loaded.model->embed(root.view, batch, outer_adapter(adapter, batch).find(kEmbeddingModule));
  for (const LayerTurn& turn : forward_turns(loaded.model->shape().num_hidden_layers)) {
    const int64_t layer = turn.layer;
    LayerWeights weights(*loaded.weights, layer);
    prefetch_next(*loaded.weights, turn);
    const LayerAdapter layer_adapter =
        adapter ? adapter->layer_adapter(layer, AdapterState::Gradients::kNo, batch.dropout_keys_T) : LayerAdapter{};
    LayerRecord record;
    hidden =
        loaded.model->forward_layer({layer, weights.dense, weights.experts, layer_adapter, context, record}, hidden);
    if (records) records->push_back(std::move(record));
  }
  return loaded.model->final_norm(root.view, hidden);
}

LossResult forward_loss(LoadedModel& loaded, const AdapterState* adapter, const Batch& batch) {
  at::NoGradGuard no_grad;
  const at::Tensor hidden = forward(loaded, adapter, batch);
  const RootWeights root(*loaded.weights);
  const LayerAdapter outer = outer_adapter(adapter, batch);
  return chunked_cross_entropy(hidden, loaded.model->head_weight_VD(root.view), batch.targets_T, WithGradient::kNo, 1.0,
                               outer.find(kHeadModule));
}

LossResult forward_backward(LoadedModel& loaded, AdapterState& adapter, const Batch& batch, double loss_scale,
                            Recompute recompute, const AfterForward& after_forward) {
  at::NoGradGuard no_grad;
  const int64_t num_layers = loaded.model->shape().num_hidden_layers;
  const int64_t first_trained = first_trained_layer(adapter);
  const ForwardContext context = make_context(loaded, batch, nullptr, static_cast<bool>(after_forward));
  RootWeights root(*loaded.weights);

  // Forwards: keep each layer's input and its routing; with Recompute::kNone its whole tape.
  std::vector<at::Tensor> inputs(num_layers);
  std::vector<LayerRecord> records(num_layers);
  std::vector<std::optional<HeldTape>> tapes(num_layers);
  const LayerAdapter outer = adapter.outer_adapter(AdapterState::Gradients::kAdd, batch.dropout_keys_T);
  const LoraPair* of_embedding = outer.find(kEmbeddingModule);
  at::Tensor hidden = loaded.model->embed(root.view, batch, of_embedding);
  for (const LayerTurn& turn : forward_turns(num_layers)) {
    const int64_t layer = turn.layer;
    if (recompute == Recompute::kNone && layer >= first_trained) {
      tapes[layer] = hold_tape(loaded, adapter, turn, hidden, context, records[layer]);
      hidden = tapes[layer]->tape.output.detach();
      continue;
    }
    if (layer >= first_trained) inputs[layer] = hidden;
    LayerWeights weights(*loaded.weights, layer);
    prefetch_next(*loaded.weights, turn);
    const LayerAdapter layer_adapter = adapter.layer_adapter(layer, AdapterState::Gradients::kNo, batch.dropout_keys_T);
    at::AutoDispatchBelowADInplaceOrView no_autograd;
    hidden = loaded.model->forward_layer(
        {layer, weights.dense, weights.experts, layer_adapter, context, records[layer]}, hidden);
  }

  const at::Tensor grad_sums_E = after_forward ? after_forward(records) : at::Tensor();

  HeadResult head = run_head(*loaded.model, root.view, hidden, batch.targets_T, loss_scale, outer.find(kHeadModule));
  at::Tensor grad = std::move(head.grad_hidden);

  // Backwards, the same loop the other way.
  for (const LayerTurn& turn : backward_turns(num_layers, first_trained)) {
    const int64_t layer = turn.layer;
    if (!tapes[layer]) tapes[layer] = hold_tape(loaded, adapter, turn, inputs[layer], context, records[layer]);
    grad = backward_of_tape(tapes[layer]->tape, grad, grad_sums_E);
    tapes[layer].reset();
    inputs[layer].reset();
  }
  if (of_embedding) backward_of_embedding(*loaded.model, root.view, batch, *of_embedding, grad);
  return std::move(head.loss);
}

}  // namespace moraine
