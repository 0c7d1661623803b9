// The mathematics of a model: one function per layer.
//
// Model code reads as if on one device. A model owns no weights: they come in as ImageViews, one layer at a time.
// Shape suffixes: T tokens of the micro-batch, D hidden, V vocabulary. `hidden`, what layers pass on, is [T, D], or [T,
// N, D] where a family carries N residual streams: only the model looks inside.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "base/typed_store.h"
#include "models/model_layout.h"
#include "nn/lora.h"
#include "parallel/expert_parallel.h"
#include "parallel/weight_store.h"

namespace moraine {

// Sequences laid end to end without padding. Host vectors cu_seqlens: sequence s is the tokens [cu_seqlens[s],
// cu_seqlens[s+1]).
struct Batch {
  at::Tensor input_ids_T;     // int64
  at::Tensor position_ids_T;  // int64
  at::Tensor targets_T;       // int64: the token to be predicted at each position, -100 = not trained
  std::vector<int64_t> cu_seqlens{0};
  at::Tensor real_T;          // bool: false for tokens that only fill a sequence up; undefined = all are real
  at::Tensor dropout_keys_T;  // int64: a random number for each token (nn/dropout.h); undefined = no dropout
  int64_t num_tokens() const { return cu_seqlens.back(); }
};

// What a layer remembers of the one sequence that is being generated: its blocks' own states, empty at first.
using LayerCache = TypedStore;

// What all layers of one forward pass share.
struct ForwardContext {
  const Batch* batch = nullptr;
  const ExpertParallel* experts = nullptr;
  std::vector<LayerCache>* caches = nullptr;  // one per layer when generating, else null
  bool balance = false;                       // whether layers record probability_sums_E

  // What blocks compute of the batch alone, once for all layers: the T of `key`, made by make() when it is first asked
  // for.
  template <typename T, typename Make>
  const T& once(const std::string& key, const Make& make) const {
    return shared->once<T>(key, make);
  }
  std::shared_ptr<TypedStore> shared = std::make_shared<TypedStore>();
};

// What a layer decided in the forward pass and its recomputation must repeat (empty = decide now and fill in), and what
// it tells of its routing. Undefined in a layer without experts.
struct LayerRecord {
  at::Tensor chosen_experts_TK;
  DispatchPlan dispatch;
  TypedStore choices;          // other choices of a layer's blocks
  at::Tensor expert_counts_E;  // int64: how often real tokens chose each expert
  at::Tensor
      favoured_counts_E;  // int64: what the auxiliary loss counts instead, where choices follow more than probabilities
  at::Tensor
      probability_sums_E;  // fp64: the router's probabilities summed over real tokens; differentiable, anew in each run
};

// One layer in one forward pass.
struct LayerScope {
  int64_t layer;
  const ImageView& dense;
  const ImageView& experts;
  const LayerAdapter& adapter;
  const ForwardContext& pass;
  LayerRecord& record;

  // Null unless generating.
  LayerCache* cache() const { return pass.caches ? &(*pass.caches)[layer] : nullptr; }
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelLayout& layout() const = 0;
  const ModelShape& shape() const { return layout().shape(); }

  // Whether layers continue a sequence from ForwardContext::caches. Where not, the whole sequence goes through for
  // every token.
  virtual bool has_cache() const { return true; }
  // The first layer's input. `lora`: the embedding's adapter, or null. Differentiable in the adapter's tensors alone.
  virtual at::Tensor embed(const ImageView& root, const Batch& batch, const LoraPair* lora = nullptr) const = 0;
  // One decoder layer. Differentiable in hidden and in the adapter's tensors.
  virtual at::Tensor forward_layer(const LayerScope& scope, const at::Tensor& hidden) const = 0;
  // The input of the output head, [T, D]. Differentiable in hidden.
  virtual at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const = 0;
  virtual at::Tensor head_weight_VD(const ImageView& root) const = 0;
};

// Chosen by architectures[0] of config.json. `dtype` as in the recipe: auto | bfloat16 | float32. Throws an input error
// for what make_layout refuses, and for an architecture whose mathematics are not built.
std::unique_ptr<Model> make_model(const HfConfig& config, DtypeChoice dtype);

}  // namespace moraine
