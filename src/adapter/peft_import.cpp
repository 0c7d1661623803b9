// Shape suffixes: E experts, R rank, O output features, I input features.
#include "adapter/peft_import.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "adapter/peft_keys.h"
#include "adapter/per_expert_layout.h"
#include "adapter/repeated_factors.h"
#include "adapter/shared_outer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/workers.h"
#include "checkpoint/tensor_file.h"
#include "formats/folder_parts.h"
#include "tensor/torch_dtype.h"

namespace moraine {
namespace {

void check_factor(const std::string& file, const std::string& name, const SafetensorsEntry& entry,
                  const std::vector<int64_t>& shape) {
  if (entry.shape != shape) {
    throw input_error(file,
                      fmt::format("tensor {} has shape [{}], expected [{}]", name, fmt::join(entry.shape, ", "),
                                  fmt::join(shape, ", ")),
                      "the adapter was made for another model, another r, or by PEFT older than 0.19.1");
  }
  if (entry.dtype != DType::kF32 && entry.dtype != DType::kBF16 && entry.dtype != DType::kF16) {
    throw input_error(file, fmt::format("tensor {} has dtype {}", name, dtype_name(entry.dtype)),
                      "expected F32, BF16 or F16");
  }
}

// A few rows at a time: no second copy of a large tensor of another dtype, and all threads read one of F32.
at::Tensor read_fp32(const SafetensorsHeader& header, const SafetensorsEntry& entry) {
  constexpr int64_t kElements = int64_t{1} << 20;
  if (entry.dtype == DType::kF32) {
    const at::Tensor values = at::empty(entry.shape, at::kFloat);
    const std::span bytes(static_cast<std::byte*>(values.mutable_data_ptr()), entry.nbytes);
    const File file(header.path);
    constexpr uint64_t kPiece = kElements * sizeof(float);
    const size_t pieces = (entry.nbytes + kPiece - 1) / kPiece;
    for_each_item(pieces, std::min(static_cast<int>(pieces), at::get_num_threads()), [&](size_t i) {
      const uint64_t first = i * kPiece;
      file.read_exact(bytes.subspan(first, std::min(kPiece, entry.nbytes - first)), entry.offset + first);
    });
    return values;
  }
  const at::Tensor values = at::empty(entry.shape, at::kFloat), flat = values.view({-1});
  const int64_t bytes = static_cast<int64_t>(entry.nbytes) / std::max<int64_t>(flat.numel(), 1);
  for (int64_t first = 0; first < flat.numel(); first += kElements) {
    const int64_t count = std::min(kElements, flat.numel() - first);
    SafetensorsEntry piece = entry;
    piece.shape = {count};
    piece.offset += first * bytes;
    piece.nbytes = count * bytes;
    flat.narrow(0, first, count).copy_(read_tensor(header, piece));
  }
  return values;
}

// What the other factor of a PEFT with swapped experts holds, as views.
at::Tensor swapped_a(const at::Tensor& lora_b, int64_t num_experts) {
  return lora_b.view({lora_b.size(0), -1, num_experts}).permute({2, 1, 0});
}
at::Tensor swapped_b(const at::Tensor& lora_a, int64_t num_experts) {
  return lora_a.view({num_experts, -1, lora_a.size(1)}).transpose(1, 2);
}

}  // namespace

PeftWeights::PeftWeights(const ModelLayout& layout, const std::filesystem::path& folder,
                         std::vector<LoraModule> modules)
    : AdapterFactors(std::move(modules), PeftClass::kText),
      header_(read_safetensors_header(find_in_folder(folder, FolderPart::kAdapterWeights))) {
  peft_class_ = peft_class_of(header_);
  const std::string file = header_.path.string();
  std::unordered_map<std::string_view, const SafetensorsEntry*> entries;
  for (const SafetensorsEntry& entry : header_.entries) entries.emplace(entry.name, &entry);
  std::unordered_set<std::string_view> used;
  const auto find = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const auto found = entries.find(name);
    if (found == entries.end())
      throw input_error(file, "tensor " + name + " is missing", "adapter_config.json implies it");
    check_factor(file, name, *found->second, shape);
    used.insert(found->first);
    return found->second;
  };
  const LoraConfig config = read_lora_config(folder);
  if (is_per_expert(layout, header_, config)) {
    const std::vector<PerExpertModule> per_expert = per_expert_modules(layout, peft_class_, modules_);
    check_per_expert(modules_, per_expert, file);
    for (size_t i = 0; i < modules_.size(); ++i) {
      const LoraModule& m = modules_[i];
      Stored stored;
      if (m.num_experts > 0) stored.projections = per_expert[i].projections;
      stored.stacked = m.num_experts > 0 && has_stacked_experts(header_);
      if (stored.stacked) {
        const int64_t of_a = m.shared_a ? 1 : m.num_experts, of_b = m.shared_b ? 1 : m.num_experts;
        for (const std::string& name : stacked_names(per_expert[i])) {
          const PeftNames keys = factor_keys(m, name);
          stored.a.push_back(find(keys.lora_a, {of_a, m.r, m.in_features}));
          stored.b.push_back(find(keys.lora_b, {of_b, m.out_features / stored.projections, m.r}));
        }
        stored_.push_back(std::move(stored));
        continue;
      }
      for (const std::string& matrix : per_expert[i].matrices) {
        const PeftNames keys = factor_keys(m, matrix);
        stored.a.push_back(find(keys.lora_a, {m.r, m.in_features}));
        stored.b.push_back(find(keys.lora_b, {m.out_features / per_expert[i].projections, m.r}));
      }
      stored_.push_back(std::move(stored));
    }
  } else {
    const std::vector<PeftNames> names = peft_names(modules_, peft_class_);
    const bool has_swapped = has_swapped_experts(config.peft_version);
    for (size_t i = 0; i < modules_.size(); ++i) {
      const LoraModule& m = modules_[i];
      const int64_t rows = std::max<int64_t>(m.num_experts, 1) * m.r;
      const bool swapped = has_swapped && m.num_experts > 0 && !m.is_transposed;
      const int64_t in = swapped ? m.out_features : m.in_features, out = swapped ? m.in_features : m.out_features;
      const SafetensorsEntry* a = find(names[i].lora_a, {rows, in});
      stored_.push_back({{a}, {find(names[i].lora_b, {out, rows})}, 0, swapped});
    }
  }
  // PEFT saves the weights of an adapted embedding or head too: the base model's, which LoRA leaves as they are.
  for (const LoraModule& m : modules_) {
    const std::string key = kPeftPrefix + module_name_in(peft_class_, m.name) + ".base_layer.weight";
    if (!m.in_layer() && entries.contains(key))
      find(key,
           m.is_embedding() ? std::vector{m.in_features, m.out_features} : std::vector{m.out_features, m.in_features});
  }
  for (const SafetensorsEntry& entry : header_.entries) {
    if (!used.contains(entry.name)) {
      throw input_error(file, "unexpected tensor " + entry.name,
                        "adapter_config.json and adapter_model.safetensors do not belong together");
    }
  }
}

at::Tensor PeftWeights::read_a(size_t module) const {
  const LoraModule& m = modules_[module];
  return m.shared_a ? shared_a(module).unsqueeze(0).expand({m.num_experts, -1, -1}) : all_of_a(module);
}

at::Tensor PeftWeights::read_b(size_t module) const {
  const LoraModule& m = modules_[module];
  return m.shared_b ? shared_b(module).unsqueeze(0).expand({m.num_experts, -1, -1}) : all_of_b(module);
}

at::Tensor PeftWeights::shared_a(size_t module) const {
  const int64_t num_experts = modules_[module].num_experts;
  const Stored& stored = stored_[module];
  if (stored.swapped)
    return read_repeated_columns(header_, *stored.b.front(), num_experts).t().to(at::kFloat).contiguous();
  if (stored.projections == 0) return read_repeated_rows(header_, *stored.a.front(), num_experts).to(at::kFloat);
  const at::Tensor first = read_fp32(header_, *stored.a.front());
  for (size_t i = 1; i < stored.a.size(); ++i) {
    if (at::equal(first, read_fp32(header_, *stored.a[i]))) continue;
    if (static_cast<int64_t>(i) % stored.projections != 0) throw other_a(*stored.a[i], *stored.a[i - 1]);
    throw not_shared(header_.path.string(), stored.a[i]->name);
  }
  return stored.stacked ? first.squeeze(0) : first;
}

at::Tensor PeftWeights::shared_b(size_t module) const {
  const int64_t num_experts = modules_[module].num_experts;
  const Stored& stored = stored_[module];
  if (stored.swapped)
    return read_repeated_rows(header_, *stored.a.front(), num_experts).t().to(at::kFloat).contiguous();
  if (stored.projections == 0) return read_repeated_columns(header_, *stored.b.front(), num_experts).to(at::kFloat);
  const at::Tensor first = read_fp32(header_, *stored.b.front());
  for (const SafetensorsEntry* b : stored.b)
    if (!at::equal(first, read_fp32(header_, *b))) throw not_shared(header_.path.string(), b->name);
  return stored.stacked ? first.squeeze(0) : first;
}

Error PeftWeights::other_a(const SafetensorsEntry& a, const SafetensorsEntry& than) const {
  return input_error(header_.path.string(), fmt::format("tensor {} differs from {}", a.name, than.name),
                     "gate and up are one parameter here, with one lora_A for both; merge that adapter into its model "
                     "with other tools");
}

at::Tensor PeftWeights::all_of_a(size_t module) const {
  const LoraModule& m = modules_[module];
  const Stored& stored = stored_[module];
  if (stored.swapped) return swapped_a(read_fp32(header_, *stored.b.front()), m.num_experts);
  if (stored.projections == 0) {
    const at::Tensor a = read_fp32(header_, *stored.a.front());
    return m.num_experts == 0 ? a : experts_a_from_peft(a, m.num_experts);
  }
  if (stored.stacked) {
    const at::Tensor a_ERI = read_fp32(header_, *stored.a.front());
    for (size_t i = 1; i < stored.a.size(); ++i)
      if (!at::equal(a_ERI, read_fp32(header_, *stored.a[i]))) throw other_a(*stored.a[i], *stored.a.front());
    return a_ERI;
  }
  const at::Tensor a_ERI = at::empty({m.num_experts, m.r, m.in_features}, at::kFloat);
  for (size_t i = 0; i < stored.a.size(); ++i) {
    const at::Tensor a_RI = read_fp32(header_, *stored.a[i]), of_expert_RI = a_ERI[i / stored.projections];
    if (i % stored.projections == 0) {
      of_expert_RI.copy_(a_RI);
    } else if (!at::equal(a_RI, of_expert_RI)) {
      throw other_a(*stored.a[i], *stored.a[i - 1]);
    }
  }
  return a_ERI;
}

at::Tensor PeftWeights::all_of_b(size_t module) const {
  const LoraModule& m = modules_[module];
  const Stored& stored = stored_[module];
  if (m.num_experts == 0) return read_fp32(header_, *stored.b.front());
  if (stored.swapped) return swapped_b(read_fp32(header_, *stored.a.front()), m.num_experts);
  if (stored.stacked) {
    std::vector<at::Tensor> rows;
    for (const SafetensorsEntry* b : stored.b) rows.push_back(read_fp32(header_, *b));
    return at::cat(rows, 1);
  }
  at::Tensor b_ORE;
  if (stored.projections == 0) {
    b_ORE = read_fp32(header_, *stored.b.front()).view({m.out_features, m.r, m.num_experts});
  } else {
    b_ORE = at::empty({m.out_features, m.r, m.num_experts}, at::kFloat);
    const int64_t rows = m.out_features / stored.projections;
    for (size_t i = 0; i < stored.b.size(); ++i) {
      const int64_t expert = static_cast<int64_t>(i) / stored.projections,
                    projection = static_cast<int64_t>(i) % stored.projections;
      b_ORE.narrow(0, projection * rows, rows).select(2, expert).copy_(read_fp32(header_, *stored.b[i]));
    }
  }
  return b_ORE.permute({2, 0, 1});
}

void import_factors(AdapterState& state, const AdapterFactors& factors) {
  state.set_peft_class(factors.peft_class());
  const ExpertRange experts = state.expert_range();
  const auto mine = [&](bool of_expert, const at::Tensor& factor, const at::Tensor& own) {
    return of_expert ? factor.narrow(0, experts.first, experts.count)
                     : factor.narrow(0, 0, own.size(0));  // where all experts share it, the first one's
  };
  for (size_t i = 0; i < state.entries().size(); ++i) {
    const AdapterEntry& entry = state.entries()[i];
    const at::Tensor a = state.a(entry), b = state.b(entry);
    a.copy_(mine(entry.module.has_expert_a(), factors.read_a(i), a));
    b.copy_(mine(entry.module.has_expert_b(), factors.read_b(i), b));
  }
}

void import_adapter(const ModelLayout& layout, AdapterState& state, const std::filesystem::path& folder) {
  std::vector<LoraModule> modules;
  for (const AdapterEntry& entry : state.entries()) modules.push_back(entry.module);
  import_factors(state, PeftWeights(layout, folder, std::move(modules)));
}

}  // namespace moraine
