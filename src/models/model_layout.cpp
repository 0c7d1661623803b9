#include "models/model_layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/error.h"
#include "models/param_specs.h"

namespace moraine {

StoredDtype stored_in(const CheckpointIndex& index) {
  return [&index](const std::string& name) -> std::optional<DType> {
    const CheckpointTensor* tensor = index.find(name);
    return tensor ? std::optional(tensor->entry.dtype) : std::nullopt;
  };
}

StoredDtype no_checkpoint() {
  return [](const std::string&) { return std::optional<DType>(); };
}

std::vector<LoraModule> with_embedding_and_head(std::vector<LoraModule> of_layers, const ModelShape& shape) {
  const int64_t vocabulary = shape.vocab_size, hidden = shape.hidden_size;
  of_layers.insert(of_layers.begin(), {kEmbeddingModule, kEmbeddingLayer, kEmbeddingModule, 0, vocabulary, hidden});
  of_layers.push_back({kHeadModule, shape.num_hidden_layers, kHeadModule, 0, hidden, vocabulary});
  return of_layers;
}

namespace {

constexpr uint64_t kMaxModelBytes = uint64_t{1} << 55;  // 32 PiB: sums of such, a few of them, fit into 64 bits

// The bytes of an image, or of more than kMaxModelBytes: kMaxModelBytes + 1.
uint64_t bytes_of(const ImageSpec& spec) {
  uint64_t sum = 0;
  for (const ParamSpec& param : spec.params) {
    const uint64_t bytes = tensor_bytes(param.dtype, param.shape).value_or(kMaxModelBytes + 1);
    sum = std::min(sum + std::min(bytes, kMaxModelBytes + 1), kMaxModelBytes + 1);
  }
  return sum;
}

}  // namespace

std::vector<ImageSpec> image_specs(const ModelLayout& layout, const StoredDtype& stored) {
  std::vector<ImageSpec> specs;
  uint64_t bytes = 0;
  const auto add = [&](ImageSpec spec) {
    bytes += bytes_of(spec);
    if (bytes > kMaxModelBytes)
      throw input_error("config.json", fmt::format("implies more than {} of weights", format_bytes(kMaxModelBytes)),
                        "its sizes are wrong");
    specs.push_back(std::move(spec));
  };
  add(layout.root_spec(stored));
  for (int64_t layer = 0; layer < layout.shape().num_hidden_layers; ++layer) {
    add(layout.dense_spec(layer, stored));
    add(layout.experts_spec(layer, stored));
  }
  return specs;
}

std::vector<ImageSpec> image_specs(const ModelLayout& layout, const StoredDtype& stored, BaseFormat base_format) {
  std::vector<ImageSpec> specs = image_specs(layout, stored);
  if (base_format == BaseFormat::kStored) return specs;
  for (ImageSpec& spec : specs) {
    const size_t num_params = spec.params.size();
    spec = dequantized_while_read(std::move(spec));
    if (spec.params.size() != num_params && layout.shape().dtype != DType::kBF16) {
      throw input_error(
          "model.base_format", "bfloat16 is not the dtype that the model computes in",
          "set model.dtype=bfloat16, or leave model.base_format out: weights are dequantised when they are used");
    }
  }
  return specs;
}

}  // namespace moraine
