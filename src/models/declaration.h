// What the blocks of a decoder layer declare, each thing once: parameters, where a checkpoint stores them, what LoRA
// can adapt, initial values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/model_layout.h"
#include "models/quantization.h"

namespace moraine {

// How a family's files call what transformers' modules call otherwise.
struct StoredNames {
  std::string layers = "model.layers.";  // before a layer's number
  // Modules or parameters within a layer; the first that is a name or a module around it counts.
  std::vector<std::pair<std::string, std::string>> renamed = {};
  std::string gate = "gate_proj", up = "up_proj", down = "down_proj";  // of a routed expert

  // The tensor of the parameter, or the stored module, `name` of a layer.
  std::string tensor(int64_t layer, const std::string& name) const;
};

// How the parameters of a layer are stored and held.
struct StoredAs {
  StoredNames names;
  DType dtype = DType::kF32;  // what is neither quantised nor of a dtype of its own is held in
  std::optional<Quantization> quantization = {};
  bool fused_experts =
      false;  // where no checkpoint says it: one tensor of all experts, not one per expert and projection
};

struct ParamOptions {
  InitialValues init = InitialValues::kNormal;
  std::optional<DType> dtype = {};  // a precision of its own
};
struct LinearOptions {
  bool bias = false;
  bool lora = true;       // whether LoRA can adapt it
  bool quantised = true;  // whether config.json's quantisation is of it
};

// Collects one kind of a layer's facts; a block declares all of them, in the order of transformers' modules.
class Declaration {
 public:
  enum class Part { kDense, kExperts, kModules };
  Declaration(Part part, int64_t layer, StoredAs as, const StoredDtype& stored);

  // The parameter `name` of the layer, never quantised.
  void param(const std::string& name, std::vector<int64_t> shape, const ParamOptions& options = {});
  // `module`.weight [out, in] with its scales where it is quantised, and `module`.bias [out].
  void linear(const std::string& module, int64_t out, int64_t in, const LinearOptions& options = {});
  // `module`.weight [E, H], never quantised, held in `dtype` where it keeps one of its own; LoRA knows it as a
  // parameter, not as a linear layer.
  void router(const std::string& module, int64_t num_experts, int64_t hidden, std::optional<DType> dtype = {});
  // `module`.gate_up_proj [E, 2I, H], gate rows first, and `module`.down_proj [E, H, I]; in the files fused under these
  // names or a tensor for each expert and projection. Quantised ones are the latter: a block never spans gate and up,
  // nor two experts.
  void experts(const std::string& module, int64_t num_experts, int64_t intermediate, int64_t hidden);

  ImageSpec take_spec() { return std::move(spec_); }
  std::vector<LoraModule> take_modules() { return std::move(modules_); }

 private:
  void expert_projections(const std::string& param, const std::string& module,
                          const std::vector<std::string>& projections, int64_t num_experts, int64_t rows,
                          int64_t columns);
  void add_module(const std::string& name, int64_t num_experts, int64_t in, int64_t out);

  Part part_;
  int64_t layer_;
  StoredAs as_;
  const StoredDtype& stored_;
  ImageSpec spec_;
  std::vector<LoraModule> modules_;
};

}  // namespace moraine
