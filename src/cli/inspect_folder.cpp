#include "cli/inspect_folder.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "cli/format_count.h"
#include "config/lora_config.h"
#include "data/template_detection.h"
#include "data/tokenizer.h"
#include "load/plan.h"
#include "load/tensor_file.h"
#include "models/loaded_model.h"

namespace moraine {
namespace {

uint64_t count_elements(const std::vector<int64_t>& shape) { return static_cast<uint64_t>(num_elements(shape)); }

struct ParameterCounts {
  uint64_t total = 0, experts = 0;
  int64_t moe_layers = 0;
};

ParameterCounts count_parameters(const std::vector<ImageSpec>& specs) {
  ParameterCounts counts;
  for (const ImageSpec& image : specs) {
    bool has_experts = false;
    for (const ParamSpec& param : image.params) {
      counts.total += count_elements(param.shape);
      if (param.kind != ParamKind::kExperts) continue;
      counts.experts += count_elements(param.shape);
      has_experts = true;
    }
    counts.moe_layers += has_experts;
  }
  return counts;
}

// That the checkpoint holds all of `specs` and nothing unknown.
void check_complete(const Model& model, const std::vector<ImageSpec>& specs, const CheckpointIndex& index) {
  std::vector<LayerImage> images;
  for (const ImageSpec& spec : specs) images.push_back(lay_out_image(spec, {0, model.shape().num_experts}, 1));
  std::vector<ShardPlan> shards;
  for (const LayerImage& image : images) shards.push_back({&image, shard_of_image(image, 1, 0)});
  plan_reads(shards, index);
  check_no_unexpected(specs, index, [&](const std::string& tensor) { return model.is_known_extra(tensor); });
}

// How many tensors and bytes there are of each dtype.
OrderedJson stored_dtypes(const std::vector<const SafetensorsEntry*>& entries) {
  std::map<std::string, std::pair<int64_t, uint64_t>> sums;
  for (const SafetensorsEntry* entry : entries) {
    auto& [tensors, bytes] = sums[std::string(dtype_name(entry->dtype))];
    tensors += 1;
    bytes += entry->nbytes;
  }
  OrderedJson json = OrderedJson::object();
  for (const auto& [dtype, sum] : sums) json[dtype] = {{"tensors", sum.first}, {"bytes", sum.second}};
  return json;
}

std::string describe_dtypes(const OrderedJson& stored) {
  std::vector<std::string> words;
  for (const auto& [dtype, sum] : stored.items()) {
    words.push_back(fmt::format("{} ({} tensors, {})", dtype, sum["tensors"].get<int64_t>(),
                                format_bytes(sum["bytes"].get<uint64_t>())));
  }
  return join_words(words);
}

// What `read` returns, or null where the folder has nothing that it can read: inspecting goes on without.
template <typename Read>
OrderedJson or_null(const Read& read) {
  try {
    return read();
  } catch (const Error&) {
    return nullptr;
  }
}

std::vector<std::string> lora_targets(const Model& model) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LoraModule& module : model.lora_modules())
    if (seen.insert(module.local_name).second) names.push_back(module.local_name);
  return names;
}

std::string shown(const OrderedJson& value, const char* otherwise) {
  if (value.is_null()) return otherwise;
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string percent(uint64_t part, uint64_t whole) { return fmt::format("{:.1f} %", 100.0 * part / whole); }

}  // namespace

OrderedJson inspect_model(const std::filesystem::path& folder) {
  const HfConfig config = HfConfig::read(folder);
  const auto model = make_model(config, "float32");  // counts do not depend on the compute dtype
  const CheckpointIndex index = read_checkpoint_index(folder);
  const auto specs = image_specs(*model, [&](const std::string& name) { return index.find(name) != nullptr; });
  check_complete(*model, specs, index);

  const ModelShape& shape = model->shape();
  const ParameterCounts counts = count_parameters(specs);
  const int64_t experts_per_token = config.integer("num_experts_per_tok");
  uint64_t file_bytes = 0;
  for (const SafetensorsHeader& file : index.files) file_bytes += file.file_size;
  std::vector<const SafetensorsEntry*> entries;
  for (const auto& [name, tensor] : index.tensors) entries.push_back(&tensor.entry);

  OrderedJson facts;
  facts["kind"] = "model";
  facts["folder"] = folder.string();
  facts["architecture"] = config.architecture();
  facts["parameters"] = counts.total;
  facts["active_parameters"] = counts.total - counts.experts / shape.num_experts * (shape.num_experts - experts_per_token);
  facts["expert_parameters"] = counts.experts;
  facts["layers"] = shape.num_hidden_layers;
  facts["moe_layers"] = counts.moe_layers;
  facts["experts"] = shape.num_experts;
  facts["experts_per_token"] = experts_per_token;
  facts["hidden_size"] = shape.hidden_size;
  facts["vocab_size"] = shape.vocab_size;
  facts["files"] = index.files.size();
  facts["bytes"] = file_bytes;
  facts["tensors"] = index.tensors.size();
  facts["stored_dtypes"] = stored_dtypes(entries);
  facts["template"] = or_null([&] { return detect_chat_template(folder); });
  facts["tokenizer_vocab_size"] =
      or_null([&] { return Tokenizer::from_file(folder / "tokenizer.json").vocab_size(); });
  facts["lora_targets"] = lora_targets(*model);
  return facts;
}

std::string describe_model(const OrderedJson& facts) {
  const auto count = [&](const char* key) { return facts[key].get<uint64_t>(); };
  std::string text = fmt::format("{}\n", facts["folder"].get<std::string>());
  const auto line = [&](const char* name, const std::string& value) { text += fmt::format("  {:<14}{}\n", name, value); };
  line("architecture", facts["architecture"].get<std::string>());
  line("parameters", fmt::format("{}, {} active for a token, {} in experts ({})", format_count(count("parameters")),
                                 format_count(count("active_parameters")), format_count(count("expert_parameters")),
                                 percent(count("expert_parameters"), count("parameters"))));
  line("layers", fmt::format("{}, {} with experts", count("layers"), count("moe_layers")));
  line("experts", fmt::format("{} a layer, {} for a token", count("experts"), count("experts_per_token")));
  line("hidden size", fmt::format("{}", count("hidden_size")));
  line("vocabulary", fmt::format("{} (tokenizer: {})", count("vocab_size"),
                                 shown(facts["tokenizer_vocab_size"], "no tokenizer.json that can be read")));
  line("chat template", shown(facts["template"], "none that is known (set data.template)"));
  line("stored", fmt::format("{} in {} file{}", format_bytes(count("bytes")), count("files"), count("files") == 1 ? "" : "s"));
  line("dtypes", describe_dtypes(facts["stored_dtypes"]));
  line("LoRA targets", join_words(facts["lora_targets"].get<std::vector<std::string>>()));
  return text;
}

namespace {

OrderedJson selection_json(const ModuleSelection& selection) {
  if (selection.all_linear) return "all-linear";
  if (selection.regex) return *selection.regex;
  return selection.names;
}

bool is_zero(const SafetensorsHeader& header, const SafetensorsEntry& entry) {
  return read_tensor(header, entry).to(at::kFloat).count_nonzero().item<int64_t>() == 0;
}

}  // namespace

OrderedJson inspect_adapter(const std::filesystem::path& folder) {
  const LoraConfig config = read_lora_config(folder);
  const SafetensorsHeader header = read_safetensors_header(folder / "adapter_model.safetensors");
  uint64_t parameters = 0;
  int64_t zero_b = 0, all_b = 0;
  std::vector<const SafetensorsEntry*> entries;
  for (const SafetensorsEntry& entry : header.entries) {
    entries.push_back(&entry);
    parameters += count_elements(entry.shape);
    if (entry.name.find("lora_B") == std::string::npos) continue;
    ++all_b;
    zero_b += is_zero(header, entry);
  }

  OrderedJson facts;
  facts["kind"] = "adapter";
  facts["folder"] = folder.string();
  facts["r"] = config.r;
  facts["lora_alpha"] = config.lora_alpha;
  facts["scaling"] = config.scaling();
  facts["target_modules"] = selection_json(config.target_modules);
  facts["target_parameters"] = config.target_parameters;
  facts["exclude_modules"] = selection_json(config.exclude_modules);
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
  const auto list = [&](const char* key) {
    if (facts[key].is_string()) return facts[key].get<std::string>();
    const auto names = facts[key].get<std::vector<std::string>>();
    return names.empty() ? std::string("none") : join_words(names);
  };
  std::string text = fmt::format("{}\n", facts["folder"].get<std::string>());
  const auto line = [&](const char* name, const std::string& value) { text += fmt::format("  {:<14}{}\n", name, value); };
  line("LoRA", fmt::format("r {}, lora_alpha {} (scaling {})", facts["r"].get<int64_t>(),
                           facts["lora_alpha"].get<double>(), facts["scaling"].get<double>()));
  line("modules", list("target_modules"));
  line("parameters", list("target_parameters"));
  if (!facts["exclude_modules"].empty()) line("excluded", list("exclude_modules"));
  line("size", fmt::format("{} parameters in {} tensors, {}", format_count(facts["parameters"].get<uint64_t>()),
                           facts["tensors"].get<int64_t>(), format_bytes(facts["bytes"].get<uint64_t>())));
  line("dtypes", describe_dtypes(facts["stored_dtypes"]));
  line("base model", facts["base_model_name_or_path"].get<std::string>());
  line("PEFT version", shown(facts["peft_version"], "not said"));
  const int64_t zero_b = facts["lora_b_zero"].get<int64_t>(), all_b = facts["lora_b_tensors"].get<int64_t>();
  if (zero_b > 0) {
    line("warning", fmt::format("{} of {} lora_B tensors are all zero: {}", zero_b, all_b,
                                zero_b == all_b ? "this adapter changes nothing" : "they change nothing"));
  }
  return text;
}

}  // namespace moraine
