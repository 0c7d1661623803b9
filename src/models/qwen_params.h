// How both Qwen families put the parameters of a layer together from a checkpoint's tensors, quantised or not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/model_layout.h"
#include "models/qwen_fp8.h"

namespace moraine {

// mlp.experts.gate_up_proj [E, 2I, H] (gate rows first) and mlp.experts.down_proj [E, H, I] in the files: fused under these names, or a
// tensor for each expert and projection.
enum class ExpertFiles { kFused, kOneEach };

// Appends the parameters of one layer to an image. Where the files have no such tensor, `fp8` says whether it is quantised; where they
// have it, its dtype. Without `fp8` nothing is, and check_checkpoint refuses what is stored otherwise.
class QwenParams {
 public:
  // `prefix` of the layer's tensors: "model.layers.3.". What is not quantised is held as `dtype`.
  QwenParams(std::string prefix, DType dtype, const std::optional<QwenFp8>& fp8, const StoredDtype& stored, ImageSpec& into)
      : prefix_(std::move(prefix)), dtype_(dtype), fp8_(fp8), stored_(stored), into_(into) {}

  // The tensor `name` of the layer, never quantised.
  void add(const std::string& name, std::vector<int64_t> shape);
  // The weight of a linear layer and, where it is quantised, its scales: `module`.weight, `module`.weight_scale.
  void add_linear(const std::string& module, int64_t out, int64_t in);
  // All experts. FP8 is a tensor for each: a block never spans gate and up, nor two experts.
  void add_experts(ExpertFiles files, int64_t num_experts, int64_t intermediate, int64_t hidden);

 private:
  void add_stacked(const std::string& name, const std::vector<std::string>& projections, int64_t num_experts, int64_t rows, int64_t columns);
  // What holds the scales of `modules`, which are quantised alike: BF16 or F32, as releases have them. nullopt: not quantised.
  std::optional<DType> scale_dtype(const std::vector<std::string>& modules) const;

  std::string prefix_;
  DType dtype_;
  const std::optional<QwenFp8>& fp8_;
  const StoredDtype& stored_;
  ImageSpec& into_;
};

}  // namespace moraine
