// moraine inspect of an adapter: its configuration, its tensors, and whether it changes anything.
#include <fmt/format.h>

#include "adapter/shared_outer.h"
#include "base/bytes.h"
#include "base/format_count.h"
#include "base/text.h"
#include "checkpoint/tensor_file.h"
#include "cli/inspect_facts.h"
#include "cli/inspect_folder.h"
#include "config/lora_config.h"
#include "formats/folder_parts.h"
#include "parallel/layer_image.h"

namespace moraine {
namespace {

OrderedJson selection_json(const ModuleSelection& selection) {
  if (selection.all_linear) return "all-linear";
  if (selection.regex) return *selection.regex;
  return selection.names;
}

template <typename T>
OrderedJson pattern_json(const PatternMap<T>& pattern) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [key, value] : pattern) json[key] = value;
  return json;
}

bool is_zero(const SafetensorsHeader& header, const SafetensorsEntry& entry) {
  return read_tensor(header, entry).to(at::kFloat).count_nonzero().item<int64_t>() == 0;
}

std::string list_of(const OrderedJson& selection) {
  if (selection.is_string()) return selection.get<std::string>();
  const auto names = selection.get<std::vector<std::string>>();
  return names.empty() ? "none" : join_words(names);
}

}  // namespace

OrderedJson inspect_adapter(const std::filesystem::path& folder) {
  const LoraConfig config = read_lora_config(folder);
  const SafetensorsHeader header = read_safetensors_header(find_in_folder(folder, FolderPart::kAdapterWeights));
  uint64_t parameters = 0;
  int64_t zero_b = 0, all_b = 0;
  std::vector<const SafetensorsEntry*> entries;
  for (const SafetensorsEntry& entry : header.entries) {
    entries.push_back(&entry);
    parameters += static_cast<uint64_t>(num_elements(entry.shape));
    const auto has = [&](const char* factor) { return entry.name.find(factor) != std::string::npos; };
    if (!has("lora_B") && !has("lora_embedding_A")) continue;  // those that begin as zero
    ++all_b;
    zero_b += is_zero(header, entry);
  }

  OrderedJson facts;
  facts["kind"] = "adapter";
  facts["folder"] = folder.string();
  facts["r"] = config.r;
  facts["lora_alpha"] = config.lora_alpha;
  facts["scaling"] = config.scaling();
  facts["use_rslora"] = config.use_rslora;
  facts["rank_pattern"] = pattern_json(config.rank_pattern);
  facts["alpha_pattern"] = pattern_json(config.alpha_pattern);
  facts["target_modules"] = selection_json(config.target_modules);
  facts["target_parameters"] = config.target_parameters;
  facts["exclude_modules"] = selection_json(config.exclude_modules);
  facts["experts"] = word_of(expert_factors_of(header));
  facts["parameters"] = parameters;
  facts["tensors"] = header.entries.size();
  facts["bytes"] = header.file_size;
  facts["stored_dtypes"] = stored_dtypes(entries);
  facts["base_model_name_or_path"] = config.base_model_name_or_path;
  facts["peft_version"] = config.peft_version.empty() ? OrderedJson() : OrderedJson(config.peft_version);
  facts["lora_b_tensors"] = all_b;
  facts["lora_b_zero"] = zero_b;
  return facts;
}

std::string describe_adapter(const OrderedJson& facts) {
  const auto count = [&](const char* key) { return facts[key].get<uint64_t>(); };
  std::vector<std::pair<std::string, std::string>> lines{
      {"LoRA", fmt::format("r {}, lora_alpha {} (scaling {})", count("r"), facts["lora_alpha"].get<double>(),
                           facts["scaling"].get<double>())},
      {"target_modules", list_of(facts["target_modules"])},
      {"target_parameters", list_of(facts["target_parameters"])},
      {"exclude_modules", list_of(facts["exclude_modules"])},
      {"size", fmt::format("{} parameters in {} tensors, {}", format_count(count("parameters")), count("tensors"),
                           format_bytes(count("bytes")))},
      {"dtypes", describe_sums(facts["stored_dtypes"])},
      {"base model", facts["base_model_name_or_path"].get<std::string>()},
      {"PEFT version", text_or(facts["peft_version"], "not said")}};
  if (facts["experts"] != word_of(ExpertFactors::kEach))
    lines.insert(lines.begin() + 3, {"experts", facts["experts"].get<std::string>()});
  for (const char* key : {"rank_pattern", "alpha_pattern"})
    if (!facts[key].empty()) lines.insert(lines.begin() + 1, {key, facts[key].dump()});
  const uint64_t zero_b = count("lora_b_zero"), all_b = count("lora_b_tensors");
  if (zero_b > 0) {
    lines.emplace_back("warning",
                       fmt::format("{} of {} lora_B tensors are all zero: {}", zero_b, all_b,
                                   zero_b == all_b ? "this adapter changes nothing" : "they change nothing"));
  }
  return fact_table(facts["folder"].get<std::string>(), lines);
}

}  // namespace moraine
