// What the trainer knows of a model: its parameters, where LoRA may attach, and one function a layer.
//
// Model code reads as if on one device. A model owns no weights: they come in as ImageViews, one layer at a time.
// Shape suffixes: T tokens of the micro-batch, D hidden, V vocabulary.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config/hf_config.h"
#include "nn/attention.h"
#include "nn/lora.h"
#include "nn/rope.h"
#include "parallel/expert_parallel.h"
#include "parallel/layer_image.h"
#include "parallel/weight_store.h"

namespace moraine {

struct ModelShape {
  int64_t num_hidden_layers = 0;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  int64_t num_experts = 0;
  DType dtype = DType::kF32;  // compute dtype of activations and weights
};

// A weight that LoRA can adapt.
struct LoraModule {
  std::string name;         // full, as PEFT matches it: "model.layers.0.self_attn.q_proj"
  int64_t layer = 0;
  std::string local_name;   // within the layer, as LayerAdapter finds it: "self_attn.q_proj"
  int64_t num_experts = 0;  // 0 = a linear layer; else a 3-D expert parameter
  int64_t in_features = 0, out_features = 0;
};

// Sequences laid end to end without padding. Host vectors cu_seqlens: sequence s is the tokens [cu_seqlens[s],
// cu_seqlens[s+1]).
struct Batch {
  at::Tensor input_ids_T;     // int64
  at::Tensor position_ids_T;  // int64
  at::Tensor targets_T;       // int64: the token to be predicted at each position, -100 = not trained
  std::vector<int64_t> cu_seqlens{0};
  int64_t num_tokens() const { return cu_seqlens.back(); }
};

// What all layers of one forward pass share.
struct ForwardContext {
  const Batch* batch = nullptr;
  RopeTable rope;
  const ExpertParallel* experts = nullptr;
  std::vector<KvCache>* caches = nullptr;  // one a layer when generating, else null
};

// What a layer decided in the forward pass and its recomputation must repeat. Empty = decide now and fill in.
struct LayerRecord {
  at::Tensor chosen_experts_TK;
  DispatchPlan dispatch;
};

// Tells how experts are stored, which decides the names of source tensors.
using HasTensor = std::function<bool(const std::string& tensor)>;

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelShape& shape() const = 0;

  // The parameters of each image. `has_tensor` says whether the checkpoint has a tensor; without a checkpoint it answers
  // false and the hub's layout is assumed.
  virtual ImageSpec root_spec(const HasTensor& has_tensor) const = 0;
  virtual ImageSpec dense_spec(int64_t layer, const HasTensor& has_tensor) const = 0;
  virtual ImageSpec experts_spec(int64_t layer, const HasTensor& has_tensor) const = 0;  // no params: a dense layer
  // Tensors that a checkpoint of this family may hold besides and that are not loaded (computed buffers, MTP).
  virtual bool is_known_extra(const std::string& tensor) const = 0;
  // In the order of transformers' modules.
  virtual std::vector<LoraModule> lora_modules() const = 0;

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
// an architecture that is not built (a dense model too).
std::unique_ptr<Model> make_model(const HfConfig& config, const std::string& dtype);

}  // namespace moraine
