// moraine inspect of a checkpoint: what config.json implies, what the files hold, and whether the two agree.
#include <fmt/format.h>

#include <map>
#include <set>

#include "base/bytes.h"
#include "base/error.h"
#include "base/format_count.h"
#include "base/text.h"
#include "checkpoint/opened_checkpoint.h"
#include "cli/inspect_facts.h"
#include "cli/inspect_folder.h"
#include "models/output_head.h"
#include "models/param_specs.h"
#include "text/chat/template_detection.h"
#include "text/tokenizer/tokenizer.h"

namespace moraine {
namespace {

struct ParameterCounts {
  uint64_t total = 0, experts = 0;
  int64_t moe_layers = 0;
};

ParameterCounts count_model(const std::vector<ImageSpec>& specs) {
  ParameterCounts counts;
  for (const ImageSpec& image : specs) {
    bool has_experts = false;
    for (const ParamSpec& param : image.params) {
      const uint64_t parameters = count_parameters(param);
      counts.total += parameters;
      if (param.kind != ParamKind::kExperts) continue;
      counts.experts += parameters;
      has_experts = true;
    }
    counts.moe_layers += has_experts;
  }
  return counts;
}

std::vector<std::string> lora_targets(const ModelLayout& layout) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const LoraModule& module : layout.lora_modules())
    if (seen.insert(module.local_name).second) names.push_back(module.local_name);
  return names;
}

// By reason: what the checkpoint holds and loading leaves out.
OrderedJson skipped_tensors(const std::vector<SkippedTensor>& skipped, const CheckpointIndex& index) {
  std::map<std::string, TensorSum> sums;
  for (const SkippedTensor& tensor : skipped) {
    TensorSum& sum = sums[tensor.reason];
    sum.tensors += 1;
    sum.bytes += index.find(tensor.tensor)->entry.nbytes;
  }
  return sums_json(sums);
}

std::string percent(uint64_t part, uint64_t whole) { return fmt::format("{:.1f} %", 100.0 * part / whole); }

}  // namespace

OrderedJson inspect_model(const std::filesystem::path& folder) {
  const OpenedCheckpoint checkpoint =
      open_checkpoint(folder, DtypeChoice::kFloat32);  // counts do not depend on the compute dtype
  const HfConfig& config = checkpoint.headers.config;
  const CheckpointIndex& index = checkpoint.headers.index;
  warn_of_stored_head(config, checkpoint.specs[kRootImage]);

  const ModelShape& shape = checkpoint.shape();
  const ParameterCounts counts = count_model(checkpoint.specs);
  const int64_t experts_per_token = shape.num_experts_per_tok;
  uint64_t file_bytes = 0;
  for (const SafetensorsHeader& file : index.files) file_bytes += file.file_size;
  std::vector<const SafetensorsEntry*> entries;
  for (const auto& [name, tensor] : index.tensors) entries.push_back(&tensor.entry);

  OrderedJson facts;
  facts["kind"] = "model";
  facts["folder"] = folder.string();
  facts["architecture"] = config.architecture();
  facts["parameters"] = counts.total;
  facts["active_parameters"] =
      counts.total - counts.experts / shape.num_experts * (shape.num_experts - experts_per_token);
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
  facts["skipped"] = skipped_tensors(checkpoint.skipped, index);
  // Training would end with these errors.
  const auto read_or_say_why = [&](const std::string& key, const auto& read) {
    facts[key] = nullptr;
    try {
      facts[key] = read();
    } catch (const Error& error) {
      facts[key + "_error"] = error.message;
    }
  };
  read_or_say_why("template", [&]() -> std::string {
    const KnownTemplate known = detect_chat_template(folder).always;
    return known.format != nullptr ? known.format->name : known.where;
  });
  read_or_say_why("tokenizer_vocab_size", [&] { return Tokenizer::from_folder(folder).vocab_size(); });
  facts["lora_targets"] = lora_targets(checkpoint.layout());
  return facts;
}

std::string describe_model(const OrderedJson& facts) {
  const auto count = [&](const char* key) { return facts[key].get<uint64_t>(); };
  const auto tokenizer = facts["tokenizer_vocab_size"];
  return fact_table(
      facts["folder"].get<std::string>(),
      {{"architecture", facts["architecture"].get<std::string>()},
       {"parameters", fmt::format("{}, {} active for a token, {} in experts ({})", format_count(count("parameters")),
                                  format_count(count("active_parameters")), format_count(count("expert_parameters")),
                                  percent(count("expert_parameters"), count("parameters")))},
       {"layers", fmt::format("{}, {} with experts", count("layers"), count("moe_layers"))},
       {"experts", fmt::format("{} a layer, {} for a token", count("experts"), count("experts_per_token"))},
       {"hidden size", fmt::format("{}", count("hidden_size"))},
       {"vocabulary",
        fmt::format("{} ({})", count("vocab_size"),
                    tokenizer.is_null() ? "no tokenizer: " + facts["tokenizer_vocab_size_error"].get<std::string>()
                                        : fmt::format("tokenizer: {}", tokenizer.get<int64_t>()))},
       {"chat template", facts["template"].is_null()
                             ? facts["template_error"].get<std::string>() + " (say data.template)"
                             : facts["template"].get<std::string>()},
       {"stored",
        fmt::format("{} in {} file{}", format_bytes(count("bytes")), count("files"), count("files") == 1 ? "" : "s")},
       {"dtypes", describe_sums(facts["stored_dtypes"])},
       {"not loaded", facts["skipped"].empty() ? "nothing" : describe_sums(facts["skipped"])},
       {"LoRA targets", join_words(facts["lora_targets"].get<std::vector<std::string>>())}});
}

}  // namespace moraine
