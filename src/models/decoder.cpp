// Shape suffixes: T tokens, D hidden, V vocabulary.
#include "models/decoder.h"

#include <algorithm>

#include "models/output_head.h"
#include "models/param_specs.h"
#include "nn/embedding.h"

namespace moraine {
namespace {

class DecoderLayout : public ModelLayout {
 public:
  explicit DecoderLayout(Decoder decoder) : decoder_(std::move(decoder)) {
    shape_.num_hidden_layers = static_cast<int64_t>(decoder_.layers.size());
    shape_.hidden_size = decoder_.hidden_size;
    shape_.vocab_size = decoder_.vocab_size;
    shape_.dtype = decoder_.stored.dtype;
    for (const DecoderLayer& layer : decoder_.layers) {
      layer.mixer->describe(shape_);
      layer.feed_forward->describe(shape_);
    }
  }

  const Decoder& decoder() const { return decoder_; }
  const ModelShape& shape() const override { return shape_; }
  int64_t layer_kind(int64_t layer) const override {
    const auto same = [&](const DecoderLayer& other) {
      return other.mixer == decoder_.layers[layer].mixer && other.feed_forward == decoder_.layers[layer].feed_forward;
    };
    return std::find_if(decoder_.layers.begin(), decoder_.layers.end(), same) - decoder_.layers.begin();
  }
  const Quantization* quantization() const override {
    return decoder_.stored.quantization ? &*decoder_.stored.quantization : nullptr;
  }

  ImageSpec root_spec(const StoredDtype& stored) const override {
    const std::string prefix = model_prefix(stored);
    const std::vector<int64_t> embedding{decoder_.vocab_size, decoder_.hidden_size};
    ImageSpec root{"root", ImageKind::kRoot, {}};
    const auto add = [&](const std::string& name, const std::string& tensor, const std::vector<int64_t>& shape) {
      root.params.push_back(stored_whole(name, tensor, shape, shape_.dtype));
    };
    add("model.embed_tokens.weight", prefix + "embed_tokens.weight", embedding);
    add("model.norm.weight", prefix + "norm.weight", {decoder_.hidden_size});
    root.params.back().init = norm("model.norm").init();
    if (has_own_head(decoder_.tie_word_embeddings, "lm_head.weight", stored))
      add("lm_head.weight", "lm_head.weight", embedding);
    return root;
  }
  ImageSpec dense_spec(int64_t layer, const StoredDtype& stored) const override {
    return declare(Declaration::Part::kDense, layer, stored).take_spec();
  }
  ImageSpec experts_spec(int64_t layer, const StoredDtype& stored) const override {
    return declare(Declaration::Part::kExperts, layer, stored).take_spec();
  }
  std::optional<std::string> why_skipped(const std::string& tensor) const override {
    for (const auto& [name, reason] : decoder_.skipped)
      if (name.starts_with("*") ? tensor.ends_with(name.substr(1)) : tensor.starts_with(name)) return reason;
    return std::nullopt;
  }
  std::vector<LoraModule> lora_modules() const override {
    std::vector<LoraModule> modules;
    for (int64_t layer = 0; layer < shape_.num_hidden_layers; ++layer)
      for (LoraModule& module : declare(Declaration::Part::kModules, layer, no_checkpoint()).take_modules())
        modules.push_back(std::move(module));
    return with_embedding_and_head(std::move(modules), shape_);
  }

  RmsNorm norm(const std::string& name) const {
    return {name, decoder_.hidden_size, decoder_.norm_eps, decoder_.norm_kind};
  }

 private:
  std::string model_prefix(const StoredDtype& stored) const {
    for (const std::string& prefix : decoder_.model_prefixes)
      if (stored(prefix + "embed_tokens.weight")) return prefix;
    return decoder_.model_prefixes.front();
  }
  Declaration declare(Declaration::Part part, int64_t layer, const StoredDtype& stored) const {
    StoredAs as = decoder_.stored;
    as.names.layers = model_prefix(stored) + "layers.";
    Declaration d(part, layer, as, stored);
    norm("input_layernorm").declare(d);
    decoder_.layers[layer].mixer->declare(d);
    norm("post_attention_layernorm").declare(d);
    decoder_.layers[layer].feed_forward->declare(d);
    return d;
  }

  Decoder decoder_;
  ModelShape shape_;
};

class DecoderModel : public Model {
 public:
  explicit DecoderModel(Decoder decoder) : layout_(std::move(decoder)) {}

  const ModelLayout& layout() const override { return layout_; }
  at::Tensor embed(const ImageView& root, const Batch& batch, const LoraPair* lora) const override {
    return token_embedding(root["model.embed_tokens.weight"], batch.input_ids_T, lora);
  }
  at::Tensor forward_layer(const LayerScope& scope, const at::Tensor& hidden_TD) const override {
    const DecoderLayer& layer = layout_.decoder().layers[scope.layer];
    const at::Tensor mixed_TD =
        hidden_TD + layer.mixer->forward(layout_.norm("input_layernorm")(hidden_TD, scope.dense), scope);
    return mixed_TD +
           layer.feed_forward->forward(layout_.norm("post_attention_layernorm")(mixed_TD, scope.dense), scope);
  }
  at::Tensor final_norm(const ImageView& root, const at::Tensor& hidden_TD) const override {
    return layout_.norm("model.norm")(hidden_TD, root);
  }
  at::Tensor head_weight_VD(const ImageView& root) const override { return root[output_head_slot(root)]; }

 private:
  DecoderLayout layout_;
};

}  // namespace

std::unique_ptr<ModelLayout> make_decoder_layout(Decoder decoder) {
  return std::make_unique<DecoderLayout>(std::move(decoder));
}
std::unique_ptr<Model> make_decoder_model(Decoder decoder) {
  return std::make_unique<DecoderModel>(std::move(decoder));
}

}  // namespace moraine
