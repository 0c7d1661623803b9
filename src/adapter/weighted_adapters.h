// Several adapters of one model, each with a weight, as one adapter: PEFT's add_weighted_adapter.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "adapter/convert_adapter.h"
#include "adapter/open_adapter.h"
#include "adapter/peft_import.h"

namespace moraine {

struct WeightedAdapter {
  std::filesystem::path folder;
  double weight = 1;  // its product is multiplied by it, besides the adapter's own scaling; may be negative
};

// What PEFT calls combination_type. w is an adapter's weight, s the scaling that it gives the module.
enum class CombineMethod {
  kCat,  // the exact sum: A = the rows w·s·A of each adapter, B = the columns of each; the rank is the sum of ranks
  kLinear,  // A = Σ ±√|w·s|·A, B = Σ √|w·s|·B, the sign in A: not the sum of products. Ranks must be equal.
};

// What each adapter selects (read_adapter_selection). Throws an input error that names two adapters of which the
// configurations name different base models.
std::vector<AdapterSelection> read_selections(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters);

// One or more adapters as one. One alone keeps its factors and has its scalings multiplied by its weight; of several
// each module has scaling 1, and the ranks of those adapters that have it. Factors of experts are combined expert by
// expert. Throws input errors as read_selections and PeftWeights do, and with kLinear for a module of different ranks.
std::unique_ptr<AdapterFactors> open_factors(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters,
                                             CombineMethod method = CombineMethod::kCat);

// Its warnings of targets that match nothing (warn_of_unmatched_targets). For one rank to call.
void warn_of_unmatched_targets(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters);

struct MergedAdapters {
  ConvertedAdapter written;
  int64_t linear_layers = 0, parameters = 0;  // adapted: parameters are experts' and routers'
  int64_t lowest_rank = 0, highest_rank = 0;
};

// Writes `out` (missing or empty) whole or not at all: the adapters as one in PEFT's layout, fp32, with lora_alpha = r
// for every module. No more of them is in memory than the largest tensor of `out` and the largest of `adapters`. As in
// PEFT, one adapter alone is scaled as with kLinear. Throws as open_factors and convert_adapter do.
MergedAdapters merge_adapters(const ModelLayout& layout, const std::vector<WeightedAdapter>& adapters,
                              CombineMethod method, const std::filesystem::path& out);

}  // namespace moraine
