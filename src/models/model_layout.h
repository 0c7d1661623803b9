// What config.json alone says of a model: its parameters, how the hub stores them, where LoRA may attach. No
// mathematics, so every family has a layout as soon as its files are known: enough to plan, to load and to prove.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/choices.h"
#include "config/hf_config.h"
#include "formats/checkpoint_index.h"
#include "parallel/layer_image.h"

namespace moraine {

struct ModelShape {
  int64_t num_hidden_layers = 0;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  int64_t num_experts = 0;
  int64_t num_experts_per_tok = 0;
  bool has_router_loss = true;  // whether transformers' class has an auxiliary loss on the routing
  DType dtype = DType::kF32;    // compute dtype of activations
};

// The modules outside of the decoder layers that LoRA can adapt, by their names and local names. The embedding's layer
// is the one before the first, the output head's the one after the last.
inline constexpr const char* kEmbeddingModule = "model.embed_tokens";
inline constexpr const char* kHeadModule = "lm_head";
inline constexpr int64_t kEmbeddingLayer = -1;

// A weight that LoRA can adapt.
struct LoraModule {
  std::string name;  // full, as PEFT matches it: "model.layers.0.self_attn.q_proj"
  int64_t layer = 0;
  std::string local_name;                     // within the layer, as LayerAdapter finds it: "self_attn.q_proj"
  int64_t num_experts = 0;                    // 0 = a linear layer or the embedding; else a 3-D expert parameter
  int64_t in_features = 0, out_features = 0;  // of the embedding the vocabulary's size and the width of its rows
  // Of the adapter that it gets (adapter/module_settings): its rank, and what its product is multiplied by. 0 in what a
  // layout offers.
  int64_t r = 0;
  double lora_alpha = 0, scaling = 0;
  // Of an expert parameter whose adapter has one A, or one B, for all experts of the layer.
  bool shared_a = false, shared_b = false;
  // Of an expert parameter that transformers holds as [E, in, out]: PEFT's layout of its adapter never changed.
  bool is_transposed = false;

  bool is_embedding() const { return layer == kEmbeddingLayer; }
  bool is_head() const { return local_name == kHeadModule; }
  bool in_layer() const { return !is_embedding() && !is_head(); }
  // Whether each expert has an A, or a B, of its own.
  bool has_expert_a() const { return num_experts > 0 && !shared_a; }
  bool has_expert_b() const { return num_experts > 0 && !shared_b; }
};

// The dtype that a tensor is stored in, nullopt when the checkpoint lacks it. Decides between the ways in which a
// family's files are written: a tensor per expert or fused, quantised or not.
using StoredDtype = std::function<std::optional<DType>(const std::string& tensor)>;
StoredDtype stored_in(const CheckpointIndex& index);  // `index` must outlive the result
StoredDtype no_checkpoint();                          // the hub's layout, as config.json describes it

struct Quantization;

class ModelLayout {
 public:
  virtual ~ModelLayout() = default;
  virtual const ModelShape& shape() const = 0;
  // Layers that compute alike are of one kind: the first of them says which. What their images hold may be stored
  // differently.
  virtual int64_t layer_kind(int64_t layer) const = 0;

  // The parameters of each image. A slot's dtype is what stays in memory: the compute dtype, or the stored one where
  // weights stay as they are stored (FP8, FP4, their scales) or keep a precision of their own.
  virtual ImageSpec root_spec(const StoredDtype& stored) const = 0;
  virtual ImageSpec dense_spec(int64_t layer, const StoredDtype& stored) const = 0;
  virtual ImageSpec experts_spec(int64_t layer,
                                 const StoredDtype& stored) const = 0;  // no params: a layer without experts
  // How the checkpoint's tensors may be quantised; null: they are not.
  virtual const Quantization* quantization() const = 0;
  // Why a tensor that no image holds may be in the checkpoint all the same ("multi-token prediction", "vision tower",
  // "computed from config.json"); nullopt: it may not.
  virtual std::optional<std::string> why_skipped(const std::string& tensor) const = 0;
  // In the order of transformers' modules.
  virtual std::vector<LoraModule> lora_modules() const = 0;
};

// `of_layers` between the embedding's module and the output head's.
std::vector<LoraModule> with_embedding_and_head(std::vector<LoraModule> of_layers, const ModelShape& shape);

// All images of the model: the root, then each layer's dense and experts images. The order of WeightStore. Throws an
// input error for sizes that no memory holds.
std::vector<ImageSpec> image_specs(const ModelLayout& layout, const StoredDtype& stored);
// The same as they are held with model.base_format: with bfloat16, quantised weights are dequantised while they are
// read. Throws an input error where they would then not be of the compute dtype.
std::vector<ImageSpec> image_specs(const ModelLayout& layout, const StoredDtype& stored, BaseFormat base_format);

// Chosen by architectures[0] of config.json. `dtype` as in the recipe: auto | bfloat16 | float32. Throws an input error
// for an architecture that is not known (a dense model too).
std::unique_ptr<ModelLayout> make_layout(const HfConfig& config, DtypeChoice dtype = DtypeChoice::kAuto);

}  // namespace moraine
