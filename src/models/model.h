// The mathematics of a model: one function a layer.
//
// Model code reads as if on one device. A model owns no weights: they come in as ImageViews, one layer at a time.
// Shape suffixes: T tokens of the micro-batch, D hidden, V vocabulary. `hidden`, what layers pass on, is [T, D], or [T, N, D] where a
// family carries N residual streams: only the model looks inside.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "models/model_layout.h"
#include "nn/attention.h"
#include "nn/gated_delta_rule.h"
#include "nn/lora.h"
#include "nn/rope.h"
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
  int64_t num_tokens() const { return cu_seqlens.back(); }
};

// What a layer remembers of the one sequence that is being generated. Each kind of layer uses its own part; undefined = nothing yet.
struct LayerCache {
  KvCache kv;              // attention
  at::Tensor conv_tail;    // linear attention: see causal_conv_silu
  at::Tensor delta_state;  // linear attention: see gated_delta_rule
};

// What layers of one family share besides.
struct FamilyContext {
  virtual ~FamilyContext() = default;
};

// What all layers of one forward pass share.
struct ForwardContext {
  const Batch* batch = nullptr;
  RopeTable rope;
  DeltaChunks delta_chunks;  // of families with linear attention
  const ExpertParallel* experts = nullptr;
  std::vector<LayerCache>* caches = nullptr;  // one a layer when generating, else null
  bool balance = false;                       // whether layers record probability_sums_E
  std::shared_ptr<const FamilyContext> family;  // null where what is above is all

  LayerCache* cache(int64_t layer) const { return caches ? &(*caches)[layer] : nullptr; }
};

// What a layer decided in the forward pass and its recomputation must repeat (empty = decide now and fill in), and what it tells of
// its routing. Undefined in a layer without experts.
struct LayerRecord {
  at::Tensor chosen_experts_TK;
  DispatchPlan dispatch;
  std::vector<at::Tensor> chosen_entries;  // of a sparse attention: which keys, as the family has it; empty elsewhere
  at::Tensor expert_counts_E;     // int64: how often real tokens chose each expert
  at::Tensor favoured_counts_E;   // int64: what the auxiliary loss counts instead, where choices follow more than probabilities
  at::Tensor probability_sums_E;  // fp64: the router's probabilities summed over real tokens; differentiable, anew in each run
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelLayout& layout() const = 0;
  const ModelShape& shape() const { return layout().shape(); }

  // Whether layers continue a sequence from ForwardContext::caches. Where not, the whole sequence goes through for every token.
  virtual bool has_cache() const { return true; }
  virtual ForwardContext prepare(const Batch& batch) const = 0;
  virtual at::Tensor embed(const ImageView& root, const Batch& batch) const = 0;
  // One decoder layer. Differentiable in hidden and in the adapter's tensors.
  virtual at::Tensor forward_layer(int64_t layer, const ImageView& dense, const ImageView& experts,
                                   const LayerAdapter& adapter, const at::Tensor& hidden, const ForwardContext& context,
                                   LayerRecord& record) const = 0;
  // The input of the output head, [T, D]. Differentiable in hidden.
  virtual at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden) const = 0;
  virtual at::Tensor head_weight_VD(const ImageView& root) const = 0;
};

// Chosen by architectures[0] of config.json. `dtype` as in the recipe: auto | bfloat16 | float32. Throws an input error for
// what make_layout refuses, and for an architecture whose mathematics are not built.
std::unique_ptr<Model> make_model(const HfConfig& config, const std::string& dtype);

}  // namespace moraine
