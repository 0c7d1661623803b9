#include "models/qwen_params.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/param_specs.h"

namespace moraine {
namespace {

int64_t blocks_in(int64_t length) { return (length + kQwenFp8Block - 1) / kQwenFp8Block; }

}  // namespace

void QwenParams::add(const std::string& name, std::vector<int64_t> shape) {
  into_.params.push_back(stored_whole(name, prefix_ + name, std::move(shape), dtype_));
}

void QwenParams::add_linear(const std::string& module, int64_t out, int64_t in) {
  const std::string name = module + ".weight", tensor = prefix_ + name;
  const std::optional<DType> scales = scale_dtype({prefix_ + module});
  into_.params.push_back(stored_whole(name, tensor, {out, in}, scales ? DType::kF8E4M3 : dtype_));
  if (scales) into_.params.push_back(stored_whole(name + "_scale", tensor + "_scale_inv", {blocks_in(out), blocks_in(in)}, *scales));
}

void QwenParams::add_experts(ExpertFiles files, int64_t num_experts, int64_t intermediate, int64_t hidden) {
  const std::string gate_up = "mlp.experts.gate_up_proj", down = "mlp.experts.down_proj";
  if (files == ExpertFiles::kOneEach) {
    add_stacked(gate_up, {"gate_proj", "up_proj"}, num_experts, intermediate, hidden);
    add_stacked(down, {"down_proj"}, num_experts, hidden, intermediate);
    return;
  }
  add(gate_up, {num_experts, 2 * intermediate, hidden});
  into_.params.back().kind = ParamKind::kExperts;
  add(down, {num_experts, hidden, intermediate});
  into_.params.back().kind = ParamKind::kExperts;
}

void QwenParams::add_stacked(const std::string& name, const std::vector<std::string>& projections, int64_t num_experts, int64_t rows,
                             int64_t columns) {
  const std::string prefix = prefix_ + "mlp.experts.";
  std::vector<std::string> modules, weights, scales;
  for (int64_t e = 0; e < num_experts; ++e)
    for (const std::string& projection : projections) modules.push_back(fmt::format("{}{}.{}", prefix, e, projection));
  for (const std::string& projection : projections) {
    weights.push_back("." + projection + ".weight");
    scales.push_back("." + projection + ".weight_scale_inv");
  }
  const std::optional<DType> scale = scale_dtype(modules);
  into_.params.push_back(
      stored_by_expert(name, prefix, weights, num_experts, rows, columns, scale ? DType::kF8E4M3 : dtype_));
  if (scale)
    into_.params.push_back(
        stored_by_expert(name + "_scale", prefix, scales, num_experts, blocks_in(rows), blocks_in(columns), *scale));
}

std::optional<DType> QwenParams::scale_dtype(const std::vector<std::string>& modules) const {
  if (!fp8_) return std::nullopt;
  const std::optional<DType> weight = stored_(modules.front() + ".weight");
  if (weight ? *weight != DType::kF8E4M3 : !fp8_->quantises(modules.front())) return std::nullopt;
  // The wider one, should releases mix them: no factor is rounded.
  const bool all_bf16 = std::all_of(modules.begin(), modules.end(), [&](const std::string& module) {
    return stored_(module + ".weight_scale_inv").value_or(DType::kBF16) == DType::kBF16;
  });
  return all_bf16 ? DType::kBF16 : DType::kF32;
}

}  // namespace moraine
