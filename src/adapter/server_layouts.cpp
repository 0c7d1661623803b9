#include "adapter/server_layouts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "adapter/full_match.h"
#include "adapter/per_expert_layout.h"
#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

struct Rule {
  std::string family;
  AdapterFormat format;
  std::string modules = ".*";          // of the per-expert layout's modules, those that the server adapts
  bool all_expert_parameters = false;  // or none, in each layer
};

struct Server {
  std::string name, version;
  std::string arguments;       // the rank to reserve for {}
  std::vector<int64_t> ranks;  // that can be reserved; empty: any
  std::vector<Rule> rules;
};

const std::vector<Server>& servers() {
  static const std::vector<Server> rows{
      {"vllm",
       "vLLM 0.33.0",
       "--enable-lora --max-lora-rank {} --lora-modules NAME=",
       {1, 8, 16, 32, 64, 128, 256, 320, 512},
       {{"Qwen3-MoE", AdapterFormat::kPerExpert},
        {"Qwen3.5-MoE", AdapterFormat::kPeft, ".*", true},
        {"DeepSeek-V4", AdapterFormat::kPerExpert,
         R"(.*\.(attn\.(wq_a|wq_b|wkv|wo_a|wo_b)|ffn\.(experts\.\d+|shared_experts)\.w[123]))"},
        {"Mixtral", AdapterFormat::kPerExpert},
        {"OLMoE", AdapterFormat::kPerExpert}}},
      {"sglang",
       "SGLang 0.5.23",
       "--enable-lora --max-lora-rank {} --lora-paths NAME=",
       {},
       {{"Qwen3-MoE", AdapterFormat::kPerExpert},
        {"Qwen3.5-MoE", AdapterFormat::kPerExpert},
        {"Mixtral", AdapterFormat::kPerExpert},
        {"OLMoE", AdapterFormat::kPerExpert}}}};
  return rows;
}

int64_t reserved_rank(const Server& server, int64_t r, const std::string& where) {
  if (server.ranks.empty()) return r;
  const auto found = std::lower_bound(server.ranks.begin(), server.ranks.end(), r);
  if (found == server.ranks.end())
    throw input_error(where, fmt::format("r is {}, more than {} takes, {}", r, server.version, server.ranks.back()),
                      "merge the adapter into its model");
  return *found;
}

void check_modules(const Server& server, const Rule& rule, const ModelLayout& layout, const AdapterSelection& selection,
                   const std::string& where) {
  const FullMatch is_read(rule.modules, server.version);
  for (const PerExpertModule& module : per_expert_modules(layout, selection.peft_class, selection.targets.modules)) {
    if (is_read(module.matrices.front())) continue;
    throw input_error(where, fmt::format("adapts {}, which {} does not", module.matrices.front(), server.version),
                      "train without it (adapter.exclude_modules), or merge the adapter into its model");
  }
}

void check_expert_parameters(const Server& server, const ModelLayout& layout, const AdapterSelection& selection,
                             const std::string& where) {
  std::map<int64_t, int64_t> offered, adapted;  // of each layer
  for (const LoraModule& module : layout.lora_modules()) offered[module.layer] += module.num_experts > 0;
  for (const LoraModule& module : selection.targets.modules) adapted[module.layer] += module.num_experts > 0;
  for (const auto& [layer, count] : adapted) {
    if (count == 0 || count == offered[layer]) continue;
    throw input_error(where,
                      fmt::format("adapts one of the experts' parameters of layer {}, but {} takes both or none", layer,
                                  server.version),
                      "export it with --layout per-expert, or merge the adapter into its model");
  }
}

}  // namespace

std::vector<std::string> server_names() {
  std::vector<std::string> names;
  for (const Server& server : servers()) names.push_back(server.name);
  return names;
}

ServerLayout server_layout(const std::string& name, const std::string& family, const ModelLayout& layout,
                           const std::filesystem::path& folder, const AdapterSelection& selection) {
  const auto server = std::find_if(servers().begin(), servers().end(), [&](const Server& s) { return s.name == name; });
  MORAINE_ASSERT(server != servers().end(), "one of server_names(): " + name);
  const std::string where = folder.string();
  const auto rule =
      std::find_if(server->rules.begin(), server->rules.end(), [&](const Rule& r) { return r.family == family; });
  if (rule == server->rules.end())
    throw input_error(where,
                      fmt::format("is an adapter of {}, of which {} is not known to read any", family, server->version),
                      "merge it into its model, or write another layout");
  check_per_expert(selection.targets.modules, where);
  check_modules(*server, *rule, layout, selection, where);
  if (rule->all_expert_parameters) check_expert_parameters(*server, layout, selection, where);
  int64_t highest = 0;
  for (const LoraModule& module : selection.targets.modules) highest = std::max(highest, module.r);
  const int64_t rank = reserved_rank(*server, highest, where);
  return {rule->format, server->version, fmt::format(fmt::runtime(server->arguments), rank)};
}

}  // namespace moraine
