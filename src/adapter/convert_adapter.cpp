// Shape suffixes: E experts (1 for a linear layer), R rank, O output features, I input features.
#include "adapter/convert_adapter.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <functional>

#include "adapter/module_settings.h"
#include "adapter/peft_import.h"
#include "adapter/peft_keys.h"
#include "adapter/per_expert_layout.h"
#include "adapter/shared_outer.h"
#include "adapter/target_kind.h"
#include "adapter/target_names.h"
#include "base/error.h"
#include "base/file.h"
#include "base/workers.h"
#include "checkpoint/tensor_file.h"
#include "formats/checkpoint_writer.h"

namespace moraine {
namespace {

// The tensors of a file one after another, and what appends them: a step appends those of one factor.
struct Conversion {
  std::vector<TensorFileWriter::Declared> declared;
  std::vector<std::function<void(TensorFileWriter&)>> steps;
  LoraConfig config;
};

constexpr int64_t kElementsTogether = int64_t{1} << 22;  // that are copied together

// to[c, r] = from[r, c], of rows that are so many elements apart: so many rows of `from` at a time that their cache
// lines last.
void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns, float* to, int64_t to_stride) {
  constexpr int64_t kRows = 64;
  for (int64_t first = 0; first < rows; first += kRows) {
    const int64_t end = std::min(first + kRows, rows);
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = first; r < end; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

// Calls work(i) for every i below `count`, from all threads.
void in_parallel(int64_t count, const std::function<void(int64_t i)>& work) {
  for_each_item(static_cast<size_t>(count), at::get_num_threads(), [&](size_t i) { work(static_cast<int64_t>(i)); });
}

// lora_A of has_swapped_experts, of a view [E, O, R]: a few experts at a time.
void append_swapped_a(TensorFileWriter& file, const at::Tensor& b_EOR) {
  const int64_t num_experts = b_EOR.size(0), out = b_EOR.size(1), r = b_EOR.size(2);
  const int64_t together = std::clamp<int64_t>(kElementsTogether / (out * r), 1, num_experts);
  for (int64_t first = 0; first < num_experts; first += together) {
    const int64_t count = std::min(together, num_experts - first);
    at::Tensor rows = at::empty({count * r, out}, at::kFloat);
    if (!is_rank_major(b_EOR))
      rows.view({count, r, out}).copy_(b_EOR.narrow(0, first, count).transpose(1, 2));
    else
      in_parallel(r,
                  [&, from = b_EOR.const_data_ptr<float>() + first, to = rows.mutable_data_ptr<float>()](int64_t rho) {
                    transpose(from + rho * num_experts, r * num_experts, out, count, to + rho * out, r * out);
                  });
    file.append_rows(rows);
  }
}

// lora_B of has_swapped_experts, of a view [E, R, I]: a few of its rows, inputs, at a time.
void append_swapped_b(TensorFileWriter& file, const at::Tensor& a_ERI) {
  const int64_t num_experts = a_ERI.size(0), r = a_ERI.size(1), in = a_ERI.size(2);
  const int64_t together = std::clamp<int64_t>(kElementsTogether / (num_experts * r), 1, in);
  for (int64_t first = 0; first < in; first += together) {
    const int64_t count = std::min(together, in - first);
    at::Tensor rows = at::empty({count, r * num_experts}, at::kFloat);
    if (!a_ERI.is_contiguous())
      rows.view({count, r, num_experts}).copy_(a_ERI.narrow(2, first, count).permute({2, 1, 0}));
    else
      in_parallel(r,
                  [&, from = a_ERI.const_data_ptr<float>() + first, to = rows.mutable_data_ptr<float>()](int64_t rho) {
                    transpose(from + rho * in, r * in, num_experts, count, to + rho * num_experts, r * num_experts);
                  });
    file.append_rows(rows);
  }
}

Conversion to_peft(const AdapterFactors& weights, const LoraConfig& config, bool swapped) {
  struct Factor {
    std::string key;
    size_t module;
    bool is_a;
  };
  const std::vector<PeftNames> names = peft_names(weights.modules(), weights.peft_class());
  std::vector<Factor> factors;
  for (size_t i = 0; i < names.size(); ++i)
    factors.insert(factors.end(), {{names[i].lora_a, i, true}, {names[i].lora_b, i, false}});
  std::sort(factors.begin(), factors.end(), [](const Factor& a, const Factor& b) { return a.key < b.key; });
  Conversion conversion{{}, {}, config};
  if (swapped) conversion.config.peft_version = kSwappedPeftVersion;
  for (const Factor& factor : factors) {
    const LoraModule& m = weights.modules()[factor.module];
    const int64_t rows = std::max<int64_t>(m.num_experts, 1) * m.r;
    const bool swap = swapped && m.num_experts > 0 && !m.is_transposed;
    const int64_t in = swap ? m.out_features : m.in_features, out = swap ? m.in_features : m.out_features;
    conversion.declared.push_back({factor.key, factor.is_a ? std::vector{rows, in} : std::vector{out, rows}});
    conversion.steps.push_back([&weights, factor, swap](TensorFileWriter& file) {
      if (swap)
        return factor.is_a ? append_swapped_a(file, weights.read_b(factor.module))
                           : append_swapped_b(file, weights.read_a(factor.module));
      const at::Tensor values = factor.is_a ? weights.read_a(factor.module) : weights.read_b(factor.module);
      if (values.dim() == 2) return file.append(values);
      file.append(factor.is_a ? experts_a_to_peft(values)
                              : experts_b_to_peft(values));  // views, as read_a and read_b are
    });
  }
  return conversion;
}

void append_experts_a(TensorFileWriter& file, const at::Tensor& a_ERI, int64_t projections) {
  for (const at::Tensor& a_RI : a_ERI.unbind())
    for (int64_t p = 0; p < projections; ++p) file.append(a_RI);
}

// Calls take(B [count, O, R]) for all experts of a view [E, O, R], which are copied a few together.
void for_some_experts(const at::Tensor& b_EOR, const std::function<void(const at::Tensor& some_EOR)>& take) {
  const int64_t num_experts = b_EOR.size(0), out = b_EOR.size(1), r = b_EOR.size(2);
  const int64_t together = std::clamp<int64_t>(kElementsTogether / (out * r), 1, num_experts);
  for (int64_t first = 0; first < num_experts; first += together) {
    const int64_t count = std::min(together, num_experts - first);
    const at::Tensor some_EOR = at::empty({count, out, r}, at::kFloat);
    if (is_rank_major(b_EOR))
      in_parallel(
          out, [&, from = b_EOR.const_data_ptr<float>() + first, to = some_EOR.mutable_data_ptr<float>()](int64_t o) {
            transpose(from + o * r * num_experts, num_experts, r, count, to + o * r, out * r);
          });
    else
      some_EOR.copy_(b_EOR.narrow(0, first, count));
    take(some_EOR);
  }
}

void append_experts_b(TensorFileWriter& file, const at::Tensor& b_EOR, int64_t projections) {
  for_some_experts(b_EOR, [&](const at::Tensor& some_EOR) {
    for (const at::Tensor& b_OR : some_EOR.unbind())
      for (const at::Tensor& rows : b_OR.chunk(projections)) file.append(rows);
  });
}

// The tensors of an expert parameter in the servers' layout of shared outer factors.
void add_stacked(Conversion& conversion, const AdapterFactors& weights, size_t module, const PerExpertModule& stored) {
  const LoraModule& m = weights.modules()[module];
  const int64_t of_a = m.shared_a ? 1 : m.num_experts, of_b = m.shared_b ? 1 : m.num_experts;
  const std::vector<std::string> names = stacked_names(stored);
  for (const std::string& name : names)
    conversion.declared.push_back({factor_keys(m, name).lora_a, {of_a, m.r, m.in_features}});
  for (const std::string& name : names)
    conversion.declared.push_back({factor_keys(m, name).lora_b, {of_b, m.out_features / stored.projections, m.r}});
  conversion.steps.push_back([&weights, module, of_a, count = names.size()](TensorFileWriter& file) {
    const at::Tensor a_ERI = weights.read_a(module).narrow(0, 0, of_a).contiguous();
    for (size_t i = 0; i < count; ++i) file.append(a_ERI);
  });
  conversion.steps.push_back([&weights, module, of_b, count = names.size()](TensorFileWriter& file) {
    const at::Tensor b_EOR = weights.read_b(module).narrow(0, 0, of_b);
    for (const at::Tensor& rows : b_EOR.chunk(static_cast<int64_t>(count), 1))
      for_some_experts(rows, [&](const at::Tensor& some_EOR) { file.append_rows(some_EOR); });
  });
}

// `stacked`: the experts' matrices of a projection in one tensor.
Conversion to_per_expert(const ModelLayout& layout, const AdapterFactors& weights, const LoraConfig& config,
                         bool stacked) {
  const std::vector<LoraModule>& modules = weights.modules();
  const std::vector<PerExpertModule> stored = per_expert_modules(layout, weights.peft_class(), modules);
  check_per_expert(modules, stored, "--layout");
  Conversion conversion{{}, {}, config};
  std::vector<std::string> adapted;
  std::vector<LoraModule> matrices;
  for (size_t i = 0; i < modules.size(); ++i) {
    const LoraModule& m = modules[i];
    const int64_t projections = stored[i].projections;
    for (const std::string& matrix : stored[i].matrices) {
      matrices.push_back(m);
      matrices.back().name = matrix;
    }
    adapted.insert(adapted.end(), stored[i].matrices.begin(), stored[i].matrices.end());
    if (stacked && m.num_experts > 0) {
      add_stacked(conversion, weights, i, stored[i]);
      continue;
    }
    for (const std::string& matrix : stored[i].matrices)
      conversion.declared.push_back({factor_keys(m, matrix).lora_a, {m.r, m.in_features}});
    for (const std::string& matrix : stored[i].matrices)
      conversion.declared.push_back({factor_keys(m, matrix).lora_b, {m.out_features / projections, m.r}});
    const bool is_experts = m.num_experts > 0;
    conversion.steps.push_back([&weights, i, projections, is_experts](TensorFileWriter& file) {
      is_experts ? append_experts_a(file, weights.read_a(i), projections) : file.append(weights.read_a(i));
    });
    conversion.steps.push_back([&weights, i, projections, is_experts](TensorFileWriter& file) {
      is_experts ? append_experts_b(file, weights.read_b(i), projections) : file.append(weights.read_b(i));
    });
  }
  // PEFT finds experts' matrices that are not adapted by the names of a shared expert's.
  std::vector<std::string> others = per_expert_linear_layers(layout, weights.peft_class());
  std::vector<LoraModule> offered = layout.lora_modules();
  std::erase_if(offered, is_router);
  for (const PerExpertModule& module : per_expert_modules(layout, weights.peft_class(), offered))
    others.insert(others.end(), module.matrices.begin(), module.matrices.end());
  conversion.config = with_ranks_of(config, matrices);
  TargetNames names = target_names(adapted, others);
  conversion.config.target_modules = only(std::move(names.targets));
  conversion.config.exclude_modules = only(std::move(names.excluded));
  conversion.config.target_parameters.clear();
  return conversion;
}

}  // namespace

ConvertedAdapter convert_adapter(const ModelLayout& layout, const std::filesystem::path& folder,
                                 const AdapterSelection& selection, AdapterFormat format,
                                 const std::filesystem::path& out) {
  check_new_folder(out);
  const bool stacked = format == AdapterFormat::kSharedOuter;
  std::vector<LoraModule> modules = selection.targets.modules;
  if (stacked) set_expert_factors(modules, ExpertFactors::kSharedOuter);  // reading tells whether they are
  if (stacked && expert_factors_of(modules) == ExpertFactors::kEach)
    throw input_error(folder.string(), "adapts no experts", "--layout per-expert writes the same without any");
  return write_converted(layout, PeftWeights(layout, folder, std::move(modules)), selection.config, format, out);
}

ConvertedAdapter write_converted(const ModelLayout& layout, const AdapterFactors& factors, const LoraConfig& config,
                                 AdapterFormat format, const std::filesystem::path& out) {
  check_new_folder(out);
  const bool stacked = format == AdapterFormat::kSharedOuter;
  const Conversion conversion = stacked || format == AdapterFormat::kPerExpert
                                    ? to_per_expert(layout, factors, config, stacked)
                                    : to_peft(factors, config, format == AdapterFormat::kPeft0190);
  ConvertedAdapter converted{.tensors = conversion.declared.size()};
  for (const TensorFileWriter::Declared& tensor : conversion.declared)
    converted.bytes += num_elements(tensor.shape) * sizeof(float);
  write_folder_atomic(out, [&](const std::filesystem::path& temporary) {
    TensorFileWriter file(temporary / "adapter_model.safetensors", conversion.declared,
                          adapter_metadata(expert_factors_of(factors.modules())));
    for (const auto& step : conversion.steps) step(file);
    file.finish();
    write_file_atomic(temporary / "adapter_config.json", lora_config_to_json(conversion.config));
  });
  return converted;
}

}  // namespace moraine
