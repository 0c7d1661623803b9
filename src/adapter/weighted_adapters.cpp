// Shape suffixes: E experts, R rank, O output features, I input features.
#include "adapter/weighted_adapters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "adapter/target_kind.h"
#include "base/error.h"
#include "base/text.h"
#include "formats/checkpoint_writer.h"

namespace moraine {
namespace {

// "Qwen3-30B-A3B" of the hub's "Qwen/Qwen3-30B-A3B" and of a folder ".../Qwen3-30B-A3B/": the same model under two
// names.
std::string model_name(std::string path) {
  while (path.ends_with('/')) path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

void check_same_base(const std::vector<WeightedAdapter>& adapters, const std::vector<AdapterSelection>& selections) {
  size_t first = selections.size();
  for (size_t i = 0; i < selections.size(); ++i) {
    const std::string& base = selections[i].config.base_model_name_or_path;
    if (base.empty()) continue;
    if (first == selections.size()) first = i;
    const std::string& other = selections[first].config.base_model_name_or_path;
    if (model_name(base) == model_name(other)) continue;
    throw input_error((adapters[i].folder / "adapter_config.json").string(),
                      fmt::format("is an adapter of {}, but {} is one of {}", quote_text(base),
                                  adapters[first].folder.string(), quote_text(other)),
                      "adapters of one base model can be combined; where both names mean it, write one of them into "
                      "base_model_name_or_path of both");
  }
}

// One adapter with other scalings.
class ScaledFactors : public PeftWeights {
 public:
  ScaledFactors(const ModelLayout& layout, const WeightedAdapter& adapter, std::vector<LoraModule> modules)
      : PeftWeights(layout, adapter.folder, std::move(modules)) {
    for (LoraModule& module : modules_) module.scaling *= adapter.weight;
  }
};

class CombinedFactors : public AdapterFactors {
 public:
  CombinedFactors(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters,
                  const std::vector<AdapterSelection>& selections, CombineMethod method)
      : AdapterFactors({}, PeftClass::kText), adapters_(adapters), method_(method) {
    for (size_t i = 0; i < adapters.size(); ++i)
      weights_.push_back(std::make_unique<PeftWeights>(layout, adapters[i].folder, selections[i].targets.modules));
    peft_class_ = weights_.front()->peft_class();
    for (const LoraModule& offered : layout.lora_modules()) {
      for (size_t i = 0; i < weights_.size(); ++i) {
        const std::vector<LoraModule>& of_adapter = weights_[i]->modules();
        const auto found = std::find_if(of_adapter.begin(), of_adapter.end(),
                                        [&](const LoraModule& module) { return module.name == offered.name; });
        if (found == of_adapter.end()) continue;
        if (modules_.empty() || modules_.back().name != offered.name) {
          modules_.push_back(offered);
          parts_.emplace_back();
        }
        add_part(modules_.back(), i, static_cast<size_t>(found - of_adapter.begin()));
      }
    }
    for (LoraModule& module : modules_) {
      module.lora_alpha = static_cast<double>(module.r);
      module.scaling = 1;
    }
  }

  at::Tensor read_a(size_t module) const override {
    if (method_ == CombineMethod::kLinear) return sum(module, /*is_a=*/true);
    const LoraModule& m = modules_[module];
    at::Tensor whole =
        at::empty(m.num_experts > 0 ? std::vector{m.num_experts, m.r, m.in_features} : std::vector{m.r, m.in_features},
                  at::kFloat);
    int64_t row = 0;
    for (const Part& part : parts_[module]) {
      const LoraModule& of_adapter = weights_[part.adapter]->modules()[part.module];
      // Two roundings, as in PEFT.
      whole.narrow(-2, row, of_adapter.r)
          .copy_(weights_[part.adapter]->read_a(part.module))
          .mul_(adapters_[part.adapter].weight)
          .mul_(of_adapter.scaling);
      row += of_adapter.r;
    }
    return whole;
  }

  at::Tensor read_b(size_t module) const override {
    if (method_ == CombineMethod::kLinear) return sum(module, /*is_a=*/false);
    const LoraModule& m = modules_[module];
    at::Tensor whole = m.num_experts > 0
                           ? at::empty({m.out_features, m.r, m.num_experts}, at::kFloat).permute({2, 0, 1})
                           : at::empty({m.out_features, m.r}, at::kFloat);
    int64_t column = 0;
    for (const Part& part : parts_[module]) {
      const int64_t r = weights_[part.adapter]->modules()[part.module].r;
      whole.narrow(-1, column, r).copy_(weights_[part.adapter]->read_b(part.module));
      column += r;
    }
    return whole;
  }

 private:
  struct Part {
    size_t adapter, module;  // weights_[adapter]->modules()[module]
  };

  void add_part(LoraModule& combined, size_t adapter, size_t module) {
    const LoraModule& added = weights_[adapter]->modules()[module];
    std::vector<Part>& parts = parts_.back();
    if (method_ == CombineMethod::kLinear && !parts.empty() && added.r != combined.r)
      throw input_error(adapters_[adapter].folder.string(),
                        fmt::format("has rank {} for {}, but {} has rank {}", added.r, added.name,
                                    adapters_[parts.front().adapter].folder.string(), combined.r),
                        "the method linear adds factors of equal rank: use cat");
    combined.r = method_ == CombineMethod::kLinear ? added.r : combined.r + added.r;
    parts.push_back({adapter, module});
  }

  at::Tensor sum(size_t module, bool is_a) const {
    at::Tensor whole;
    for (const Part& part : parts_[module]) {
      const PeftWeights& weights = *weights_[part.adapter];
      const double factor = adapters_[part.adapter].weight * weights.modules()[part.module].scaling;
      const double root = std::sqrt(std::abs(factor)) * (is_a && factor < 0 ? -1 : 1);
      const at::Tensor read = is_a ? weights.read_a(part.module) : weights.read_b(part.module);
      // What all experts share is in memory once, and the sum of two such adapters as often as there are experts.
      const at::Tensor added = read.is_non_overlapping_and_dense() ? read.mul_(root) : read.mul(root);
      whole = whole.defined() ? whole.add_(added) : added;
    }
    return whole;
  }

  std::vector<WeightedAdapter> adapters_;
  CombineMethod method_;
  std::vector<std::unique_ptr<PeftWeights>> weights_;
  std::vector<std::vector<Part>> parts_;  // of each of modules_, in the adapters' order
};

}  // namespace

std::vector<AdapterSelection> read_selections(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters) {
  std::vector<AdapterSelection> selections;
  for (const WeightedAdapter& adapter : adapters) selections.push_back(read_adapter_selection(layout, adapter.folder));
  check_same_base(adapters, selections);
  return selections;
}

std::unique_ptr<AdapterFactors> open_factors(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters,
                                             CombineMethod method) {
  MORAINE_ASSERT(!adapters.empty(), "there is an adapter");
  const std::vector<AdapterSelection> selections = read_selections(layout, adapters);
  if (adapters.size() == 1)
    return std::make_unique<ScaledFactors>(layout, adapters.front(), selections.front().targets.modules);
  return std::make_unique<CombinedFactors>(layout, adapters, selections, method);
}

void warn_of_unmatched_targets(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters) {
  const std::vector<AdapterSelection> selections = read_selections(layout, adapters);
  for (size_t i = 0; i < adapters.size(); ++i) warn_of_unmatched_targets(selections[i].unmatched, adapters[i].folder);
}

MergedAdapters merge_adapters(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters,
                              CombineMethod method, const std::filesystem::path& out) {
  check_new_folder(out);
  const std::vector<AdapterSelection> selections = read_selections(layout, adapters);
  if (adapters.size() == 1) method = CombineMethod::kLinear;
  const CombinedFactors factors(layout, adapters, selections, method);
  LoraConfig config;
  for (const AdapterSelection& selection : selections)
    if (config.base_model_name_or_path.empty())
      config.base_model_name_or_path = selection.config.base_model_name_or_path;
  config = config_of_modules(layout, factors.peft_class(), std::move(config), factors.modules());
  MergedAdapters merged;
  for (const LoraModule& module : factors.modules()) {
    ++(is_parameter(module) ? merged.parameters : merged.linear_layers);
    merged.lowest_rank = merged.lowest_rank == 0 ? module.r : std::min(merged.lowest_rank, module.r);
    merged.highest_rank = std::max(merged.highest_rank, module.r);
  }
  merged.written = write_converted(layout, factors, config, AdapterFormat::kPeft, out);
  return merged;
}

}  // namespace moraine
