#include "adapter/server_rules.h"

#include <algorithm>
#include <string_view>

#include "models/registry.h"

namespace moraine {
namespace {

constexpr auto kRead = Fate::kRead, kIgnored = Fate::kIgnored, kRefused = Fate::kRefused;
constexpr auto kPeft = AdapterFormat::kPeft, kPerExpert = AdapterFormat::kPerExpert;

constexpr const char* kTextClass = " (text class)";

// The parameters of experts in PEFT's layout.
constexpr const char* kWrappers = R"(mlp\.experts(\.base_layer)*)";

// PEFT 0.21.0 with transformers 5.18: peft/utils/save_and_load.py (set_peft_model_state_dict) loads what has the name
// of a module and leaves the rest; peft/utils/transformers_weight_conversion.py converts experts that are layers of
// their own for the types that transformers/conversion_mapping.py has among _MODEL_TO_CONVERSION_PATTERN's qwen2_moe
// and mixtral. tests/export runs both.
Server peft() {
  const std::vector<NameRule> outside{{"lm_head|model\\.(language_model\\.)?embed_tokens", kRead, ""}};
  const auto family = [&](const std::string& name, const std::string& experts, std::vector<std::string> stems) {
    FamilyRules rules{name, {kPeft}, std::move(stems), {}, outside};
    if (experts.empty()) {
      rules.in_layer = {{R"(.*\.experts\.\d+\..*)", kIgnored, "experts are one module, not one each"}};
    } else {
      rules.formats.push_back(kPerExpert);
      rules.in_layer = {{experts, kRead, "mlp.experts"}};
      if (name == "Mixtral") rules.in_layer.push_back({R"(block_sparse_moe\.gate)", kRead, "mlp.gate"});
    }
    rules.in_layer.push_back({".*", kRead, ""});
    return rules;
  };
  const std::string projections = R"(mlp\.experts\.\d+\.(gate|up|down)_proj)";
  return {
      .name = "peft",
      .version = "PEFT 0.21.0",
      .arguments = "",
      .ranks = {},
      .form = KeyForm::kPeft,
      .unknown = {"", kIgnored, "no key that PEFT looks for"},
      .absent = {"", kIgnored, "the model has no such module"},
      .half = {"", kIgnored, "the other factor is missing and keeps its initial values"},
      .needed = {"peft_type"},
      .config = {},
      .plain_inits = {},
      .peft_targets = true,
      .families = {family("Qwen3-MoE", projections, {"model."}),
                   family("Qwen3.5-MoE", "", {"model.", "model.language_model."}),
                   family("DeepSeek-V4", "", {"model."}),
                   family("Mixtral", R"(block_sparse_moe\.experts\.\d+\.w[123])", {"model."}),
                   family("OLMoE", projections, {"model."})},
  };
}

// vLLM 0.33.0. vllm/lora: lora_model.py (check_unexpected_modules) refuses a key by the end of its name, utils.py
// (parse_fine_tuned_lora_name) one of another form; model_manager.py (activate_adapter) takes what has a module's whole
// name and leaves the rest with a word at DEBUG, _validate_moe_lora_format refuses 3-D experts in 2-D wrappers,
// lora_weights.py (pack_moe) asserts all experts' three projections; peft_helper.py checks the configuration. Modules:
// model_executor/models/{qwen3_moe,qwen3_5,mixtral,olmoe}.py, models/deepseek_v4/{attention,compressor}.py and
// nvidia/{model,ops/o_proj}.py; the last three use weights of layers that can be adapted without their adapters.
Server vllm() {
  constexpr const char* kFused =
      "3-D experts: only with --enable-mixed-moe-lora-format, and is_3d_lora_weight true for the adapter";
  constexpr const char* kNoModule = "no module has this name, and vLLM says so at DEBUG only";
  constexpr const char* kUnused = "loaded, but the layer is computed without it";
  const std::vector<NameRule> attention{{R"(self_attn\.[qkv]_proj)", kRead, "self_attn.qkv_proj"},
                                        {R"(self_attn\.o_proj)", kRead, "self_attn.o_proj"}};
  const auto with = [&](std::vector<NameRule> rules) {
    rules.insert(rules.begin(), attention.begin(), attention.end());
    return rules;
  };
  const std::vector<NameRule> head{{"lm_head", kRead, "lm_head"}, {R"(model\.embed_tokens)", kRead, "embed_tokens"}};
  const NameRule experts{R"(mlp\.experts\.\d+\.(gate|up|down)_proj)", kRead, "mlp.experts"},
      router{R"(mlp\.gate)", kRead, "mlp.gate"}, fused{kWrappers, kRefused, kFused},
      stacked{R"(.*\.experts\.w[123])", kRefused,
              "one tensor of all experts for each projection: only with --enable-moe-shared-loras"};
  std::vector<NameRule> mm_head = head;
  mm_head.push_back({R"(model\.language_model\.embed_tokens)", kRead, "embed_tokens"});
  const auto qwen3_5 = [&](std::vector<NameRule> of_experts) {
    std::vector<NameRule> rules =
        with({router,
              {R"(mlp\.shared_expert\.(gate|up)_proj)", kRead, "mlp.shared_expert.gate_up_proj"},
              {R"(mlp\.shared_expert\.down_proj)", kRead, "mlp.shared_expert.down_proj"},
              {R"(mlp\.shared_expert_gate)", kRead, "mlp.shared_expert_gate"},
              {R"(linear_attn\.in_proj_(qkv|z))", kRead, "linear_attn.in_proj_qkvz"},
              {R"(linear_attn\.in_proj_[ab])", kRead, "linear_attn.in_proj_ba"},
              {R"(linear_attn\.out_proj)", kRead, "linear_attn.out_proj"}});
    rules.insert(rules.end(), of_experts.begin(), of_experts.end());
    return rules;
  };
  return {
      .name = "vllm",
      .version = "vLLM 0.33.0",
      .arguments = "--enable-lora --max-lora-rank {} --lora-modules NAME=",
      .ranks = {1, 8, 16, 32, 64, 128, 256, 320, 512},
      .form = KeyForm::kVllm,
      .unknown = {"", kRefused, "no layer of this model has a name that ends so"},
      .absent = {"", kIgnored, kNoModule},
      .half = {"", kRefused, "the other factor is missing"},
      .needed = {"r", "lora_alpha", "target_modules"},
      .config = {{"use_dora", kRefused, "DoRA is not supported"},
                 {"lora_bias", kRefused, "is not supported"},
                 {"bias", kRefused, "is not supported"},
                 {"layer_replication", kRefused, "is not supported"},
                 {"alora_invocation_tokens", kRefused, "is not supported"},
                 {"use_bdlora", kRefused, "is not supported"},
                 {"use_qalora", kRefused, "is not supported"},
                 {"modules_to_save", kRefused, "is for heads of classification models only"}},
      .plain_inits = {"gaussian", "eva", "orthogonal", "mica", "lora_ga"},
      .experts = Experts::kWhole,
      .families = {{"Qwen3-MoE",
                    {kPerExpert},
                    {"model."},
                    with({experts,
                          stacked,
                          router,
                          {R"(mlp\.(gate|up)_proj)", kRead, "mlp.gate_up_proj"},
                          {R"(mlp\.down_proj)", kRead, "mlp.down_proj"},
                          fused}),
                    head},
                   {"Qwen3.5-MoE",
                    {kPeft},
                    {"model.", "model.language_model."},
                    qwen3_5({{kWrappers, kRead, "mlp.experts"},
                             stacked,
                             {R"(mlp\.experts\.\d+\..*)", kRefused,
                              "experts that are layers of their own: only with --enable-mixed-moe-lora-format"}}),
                    mm_head},
                   {std::string("Qwen3.5-MoE") + kTextClass,  // has no is_3d_moe_weight
                    {kPerExpert},
                    {"model.", "model.language_model."},
                    qwen3_5({experts, stacked, fused}),
                    mm_head},
                   {"DeepSeek-V4",
                    {kPerExpert},
                    {"", "model."},
                    {{R"(attn\.(wq_a|wkv))", kRead, "attn.fused_wqa_wkv"},
                     stacked,
                     {R"(attn\.(wq_b|wo_b|indexer\.wq_b|indexer\.weights_proj))", kRead, ""},
                     {R"(ffn\.experts\.\d+\.w[123])", kRead, "ffn.experts"},
                     {R"(ffn\.shared_experts\.w[13])", kRead, "ffn.shared_experts.gate_up_proj"},
                     {R"(ffn\.shared_experts\.w2)", kRead, "ffn.shared_experts.down_proj"},
                     {R"(ffn\.gate)", kRead, "ffn.gate"},
                     {R"(attn\.wo_a)", kIgnored, kUnused},
                     {R"(attn\.(indexer\.)?compressor\.(wkv|wgate))", kIgnored, kUnused},
                     {R"(mlp\.(gate|shared_experts\.down_proj))", kIgnored, kNoModule},
                     {kWrappers, kIgnored, kNoModule}},
                    {{R"(mtp\..*)", kIgnored, "layers of multi-token prediction are not adapted"}}},
                   {"Mixtral",
                    {kPerExpert},
                    {"model."},
                    with({{R"(block_sparse_moe\.experts\.\d+\.w[123])", kRead, "block_sparse_moe.experts"},
                          stacked,
                          {R"(block_sparse_moe\.experts\.\d+\.(gate|up|down)_proj)", kRead, "block_sparse_moe.experts"},
                          {R"(block_sparse_moe\.gate)", kRead, "block_sparse_moe.gate"},
                          {R"(mlp\.experts\.\d+\.(w[123]|(gate|up|down)_proj))", kIgnored, kNoModule},
                          {R"(mlp\.gate)", kIgnored, kNoModule},
                          {kWrappers, kIgnored, kNoModule}}),
                    head},
                   {"OLMoE", {kPerExpert}, {"model."}, with({experts, stacked, router, fused})}},
  };
}

// SGLang 0.5.23. sglang/srt/lora: lora.py (_process_weight, _normalize_weights) goes by "layers.N." and pieces of
// names; mem_pool.py (load_lora_weight_to_buffer) refuses a weight in whose name no target is found, and leaves
// experts' weights where lora_manager.py (init_lora_modules) wrapped no experts: it does where both gate_up_proj and
// down_proj are targets; utils.py (get_normalized_target_modules, get_default_hidden_dim) and models/qwen3_5.py
// (get_hidden_dim) end the start for other targets. lora_config.py reads r, lora_alpha, use_dora and target_modules
// alone. Flags: arg_groups/fields/lora.py.
Server sglang() {
  const NameRule qkv{R"(self_attn\.[qkv]_proj)", kRead, "self_attn.qkv_proj"},
      o_proj{R"(self_attn\.o_proj)", kRead, "self_attn.o_proj"},
      experts{R"(mlp\.experts\.(\d+\.((gate|up|down)_proj|w[123])|w[123]))", kRead, "mlp.experts"},
      fused{kWrappers, kRefused, "3-D experts in PEFT's layout are not read"},
      dense{R"(mlp\.(gate|up|down)_proj)", kRefused, "layers without experts are not adapted in a model with experts"};
  const std::vector<NameRule> head{{".*lm_head", kRead, "lm_head"}, {".*embed_tokens", kRead, "embed_tokens"}};
  const std::vector<std::string> targets{"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"};
  std::vector<std::string> hybrid_targets = targets;
  hybrid_targets.insert(hybrid_targets.end(), {"out_proj", "in_proj_qkvz"});
  return {
      .name = "sglang",
      .version = "SGLang 0.5.23",
      .arguments = "--enable-lora --max-lora-rank {} --lora-paths NAME=",
      .ranks = {},
      .form = KeyForm::kSglang,
      .unknown = {"", kRefused, "the server knows no module of this name"},
      .absent = {"", kRefused, "the model has no such module"},
      .half = {"", kRefused, "the other factor is missing"},
      .needed = {"peft_type", "r", "lora_alpha", "target_modules"},
      .config = {{"use_dora", kRefused, "DoRA is not supported"},
                 {"use_rslora", kIgnored, "is not looked at: the scaling is lora_alpha / r"},
                 {"rank_pattern", kIgnored, "is not looked at: every rank is r"},
                 {"alpha_pattern", kIgnored, "is not looked at: the scaling is lora_alpha / r"}},
      .plain_inits = {},
      .experts = Experts::kByTargets,
      .q_with_v = true,
      .target_names = {{"q_proj", "qkv_proj"},
                       {"k_proj", "qkv_proj"},
                       {"v_proj", "qkv_proj"},
                       {"gate_proj", "gate_up_proj"},
                       {"up_proj", "gate_up_proj"}},
      .families = {{"Qwen3-MoE", {kPerExpert}, {}, {qkv, o_proj, experts, fused, dense}, head, targets},
                   {"Qwen3.5-MoE",
                    {kPerExpert},
                    {},
                    {qkv,
                     o_proj,
                     experts,
                     fused,
                     {R"(mlp\.shared_expert\.(gate|up)_proj)", kRead, "mlp.shared_expert.gate_up_proj"},
                     {R"(mlp\.shared_expert\.down_proj)", kRead, "mlp.shared_expert.down_proj"},
                     {R"(linear_attn\.out_proj)", kRead, "linear_attn.out_proj"},
                     {R"(linear_attn\.in_proj_.*)", kRefused, "only one in_proj_qkvz for all of them is adapted"}},
                    head,
                    hybrid_targets},
                   {"Mixtral",
                    {kPerExpert},
                    {},
                    {qkv,
                     o_proj,
                     {R"((mlp|block_sparse_moe)\.experts\.(\d+\.((gate|up|down)_proj|w[123])|w[123]))", kRead,
                      "block_sparse_moe.experts"},
                     fused},
                    head,
                    targets},
                   {"OLMoE", {kPerExpert}, {}, {qkv, o_proj, experts, fused}, head, targets}},
  };
}

}  // namespace

const std::vector<Server>& servers() {
  static const std::vector<Server> rows{peft(), vllm(), sglang()};
  return rows;
}

std::string served_family(const HfConfig& config) {
  const bool text_class = config.architecture() == "Qwen3_5MoeForCausalLM";
  return family_of(config).name + (text_class ? kTextClass : "");
}

const FamilyRules* rules_for(const Server& server, const std::string& family) {
  const auto found = std::find_if(server.families.begin(), server.families.end(),
                                  [&](const FamilyRules& rules) { return rules.family == family; });
  if (found != server.families.end()) return &*found;
  if (!family.ends_with(kTextClass)) return nullptr;
  return rules_for(server, family.substr(0, family.size() - std::string_view(kTextClass).size()));
}

}  // namespace moraine
