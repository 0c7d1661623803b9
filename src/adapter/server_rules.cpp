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

std::vector<NameRule> joined(const std::vector<std::vector<NameRule>>& lists) {
  std::vector<NameRule> rules;
  for (const std::vector<NameRule>& list : lists) rules.insert(rules.end(), list.begin(), list.end());
  return rules;
}

// PEFT 0.21.0 with transformers 5.18: peft/utils/save_and_load.py (set_peft_model_state_dict) loads what has the name
// of a module and leaves the rest; peft/utils/transformers_weight_conversion.py converts experts that are layers of
// their own for the types that transformers/conversion_mapping.py has among _MODEL_TO_CONVERSION_PATTERN's qwen2_moe
// and mixtral (qwen2_moe itself is not among them). There it takes gate_proj, up_proj and down_proj in target_modules
// for the experts' parameters, whatever stands before them. tests/export runs both.
Server peft() {
  const std::vector<NameRule> outside{{"lm_head|model\\.(language_model\\.)?embed_tokens", kRead, ""}};
  const auto whole = [&](const std::string& name, std::vector<std::string> stems) {
    return FamilyRules{
        name,
        {kPeft},
        std::move(stems),
        {{R"(.*\.experts\.\d+\..*)", kIgnored, "experts are one module, not one each"}, {".*", kRead, ""}},
        outside};
  };
  const auto like_qwen2 = [&](const std::string& name) {
    return FamilyRules{name,
                       {kPeft, kPerExpert},
                       {"model."},
                       {{R"(mlp\.experts\.\d+\.(gate|up|down)_proj)", kRead, "mlp.experts"},
                        {R"(mlp\.(shared_experts?\.)?(gate|up|down)_proj)", kIgnored,
                         "gate_proj, up_proj and down_proj mean the routed experts"},
                        {".*", kRead, ""}},
                       outside};
  };
  const auto like_mixtral = [&](const std::string& name) {
    return FamilyRules{name,
                       {kPeft, kPerExpert},
                       {"model."},
                       {{R"(block_sparse_moe\.experts\.\d+\.w[123])", kRead, "mlp.experts"},
                        {R"(block_sparse_moe\.gate)", kRead, "mlp.gate"},
                        {".*", kRead, ""}},
                       outside};
  };
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
      .families = {like_qwen2("Qwen3-MoE"), whole("Qwen3.5-MoE", {"model.", "model.language_model."}),
                   whole("DeepSeek-V4", {"model."}), like_mixtral("Mixtral"), like_qwen2("OLMoE"),
                   like_qwen2("GLM-4.5"), like_mixtral("MiniMax-M2"), whole("Qwen2-MoE", {"model."}),
                   like_qwen2("ERNIE-4.5-MoE"), like_qwen2("DeepSeek-V3"), whole("gpt-oss", {"model."}),
                   like_qwen2("Qwen3-Next"), like_qwen2("GLM-4.7-Flash"), like_qwen2("dots.llm1"),
                   like_qwen2("Solar-Open")},
  };
}

// vLLM 0.33.0. vllm/lora: lora_model.py (check_unexpected_modules) refuses a key by the end of its name, utils.py
// (parse_fine_tuned_lora_name) one of another form; model_manager.py (activate_adapter) takes what has a module's whole
// name and leaves the rest with a word at DEBUG, _validate_moe_lora_format refuses 3-D experts in 2-D wrappers,
// lora_weights.py (pack_moe) asserts all experts' three projections; peft_helper.py checks the configuration. Modules:
// model_executor/models/{qwen3_moe,qwen3_5,mixtral,olmoe,glm4_moe,minimax_m2,qwen2_moe,ernie45_moe,deepseek_v2,gpt_oss,
// qwen3_next}.py, models/deepseek_v4/{attention,compressor}.py and nvidia/{model,ops/o_proj}.py. The last three, and
// model_executor/layers/attention/mla_attention.py with kv_b_proj, use weights of layers that can be adapted without
// their adapters. Embedding and head are adapted where a class has embedding_modules.
Server vllm() {
  constexpr const char* kFused =
      "3-D experts: only with --enable-mixed-moe-lora-format, and is_3d_lora_weight true for the adapter";
  constexpr const char* kNoModule = "no module has this name, and vLLM says so at DEBUG only";
  constexpr const char* kUnused = "loaded, but the layer is computed without it";
  const std::vector<NameRule> attention{{R"(self_attn\.[qkv]_proj)", kRead, "self_attn.qkv_proj"},
                                        {R"(self_attn\.o_proj)", kRead, "self_attn.o_proj"}};
  const std::vector<NameRule> head{{"lm_head", kRead, "lm_head"}, {R"(model\.embed_tokens)", kRead, "embed_tokens"}};
  const NameRule experts{R"(mlp\.experts\.\d+\.(gate|up|down)_proj)", kRead, "mlp.experts"},
      router{R"(mlp\.gate)", kRead, "mlp.gate"}, fused{kWrappers, kRefused, kFused},
      stacked{R"(.*\.experts\.w[123])", kRefused,
              "one tensor of all experts for each projection: only with --enable-moe-shared-loras"};
  std::vector<NameRule> mm_head = head;
  mm_head.push_back({R"(model\.language_model\.embed_tokens)", kRead, "embed_tokens"});
  const std::vector<NameRule> dense{{R"(mlp\.(gate|up)_proj)", kRead, "mlp.gate_up_proj"},
                                    {R"(mlp\.down_proj)", kRead, "mlp.down_proj"}},
      shared_expert{{R"(mlp\.shared_expert\.(gate|up)_proj)", kRead, "mlp.shared_expert.gate_up_proj"},
                    {R"(mlp\.shared_expert\.down_proj)", kRead, "mlp.shared_expert.down_proj"},
                    {R"(mlp\.shared_expert_gate)", kRead, "mlp.shared_expert_gate"}},
      shared_experts{{R"(mlp\.shared_experts\.(gate|up)_proj)", kRead, "mlp.shared_experts.gate_up_proj"},
                     {R"(mlp\.shared_experts\.down_proj)", kRead, "mlp.shared_experts.down_proj"}};
  const NameRule each_expert{R"(mlp\.experts\.\d+\..*)", kRefused,
                             "experts that are layers of their own: only with --enable-mixed-moe-lora-format"};
  const auto qwen3_5 = [&](std::vector<NameRule> of_experts) {
    return joined({attention,
                   {router},
                   shared_expert,
                   {{R"(linear_attn\.in_proj_(qkv|z))", kRead, "linear_attn.in_proj_qkvz"},
                    {R"(linear_attn\.in_proj_[ab])", kRead, "linear_attn.in_proj_ba"},
                    {R"(linear_attn\.out_proj)", kRead, "linear_attn.out_proj"}},
                   std::move(of_experts)});
  };
  // Experts under the checkpoint's name of their block, where transformers' names are those of no module.
  const auto in_block_sparse_moe =
      joined({attention,
              {{R"(block_sparse_moe\.experts\.\d+\.w[123])", kRead, "block_sparse_moe.experts"},
               stacked,
               {R"(block_sparse_moe\.gate)", kRead, "block_sparse_moe.gate"},
               {R"(mlp\.experts\.\d+\.w[123])", kIgnored, kNoModule},
               {R"(mlp\.gate)", kIgnored, kNoModule},
               {kWrappers, kIgnored, kNoModule}}});
  const auto latent = [&](const std::string& name) -> FamilyRules {
    return {name,
            {kPerExpert},
            {"model."},
            joined({{{R"(self_attn\.(q_a_proj|kv_a_proj_with_mqa))", kRead, "self_attn.fused_qkv_a_proj"},
                     {R"(self_attn\.(q_b_proj|q_proj|o_proj|indexer\.wq_b))", kRead, ""},
                     {R"(self_attn\.kv_b_proj)", kIgnored, kUnused},
                     experts,
                     stacked,
                     router},
                    dense,
                    shared_experts,
                    {fused}})};
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
                    joined({attention, {experts, stacked, router}, dense, {fused}}),
                    head},
                   {"Qwen3.5-MoE",
                    {kPeft},
                    {"model.", "model.language_model."},
                    qwen3_5({{kWrappers, kRead, "mlp.experts"}, stacked, each_expert}),
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
                   {"Mixtral", {kPerExpert}, {"model."}, in_block_sparse_moe, head},
                   {"OLMoE", {kPerExpert}, {"model."}, joined({attention, {experts, stacked, router, fused}})},
                   {"GLM-4.5",
                    {kPerExpert},
                    {"model."},
                    joined({attention, {experts, stacked, router}, dense, shared_experts, {fused}})},
                   {"MiniMax-M2", {kPerExpert}, {"model."}, in_block_sparse_moe},
                   {"Qwen2-MoE",
                    {kPerExpert},
                    {"model."},
                    joined({attention, {experts, stacked, router}, dense, shared_expert, {fused}})},
                   {"ERNIE-4.5-MoE",
                    {kPerExpert},
                    {"model."},
                    joined({attention, {experts, stacked, router}, dense, shared_experts, {fused}})},
                   latent("DeepSeek-V3"),
                   latent("GLM-4.7-Flash"),
                   {"gpt-oss",
                    {kPeft},
                    {"model."},
                    {{R"(self_attn\.[qkv]_proj)", kRead, "attn.qkv_proj"},
                     {R"(self_attn\.o_proj)", kRead, "attn.o_proj"},
                     {R"(mlp\.router)", kRead, "mlp.router"},
                     {kWrappers, kRead, "mlp.experts"},
                     stacked,
                     each_expert}},
                   {"Qwen3-Next",
                    {kPerExpert},
                    {"model."},
                    joined({attention,
                            {experts, stacked, router},
                            dense,
                            shared_expert,
                            {{R"(linear_attn\.(in_proj_qkvz|in_proj_ba|out_proj))", kRead, ""}, fused}})}},
  };
}

// SGLang 0.5.23. sglang/srt/lora: lora.py (_process_weight, _normalize_weights) goes by "layers.N." and pieces of
// names; mem_pool.py (load_lora_weight_to_buffer) refuses a weight in whose name no target is found, and leaves
// experts' weights where lora_manager.py (init_lora_modules) wrapped no experts: it does where both gate_up_proj and
// down_proj are targets; utils.py (get_normalized_target_modules, get_default_hidden_dim) and models/qwen3_5.py
// (get_hidden_dim) end the start for other targets; get_default_hidden_dim counts no output gate in qkv_proj, so
// Qwen3-Next's does not fit. mem_pool.py (init_buffers) makes buffers for MLPs beside experts where config.json has
// shared_expert_intermediate_size or n_shared_experts, which ERNIE's has not, and its start ends in a KeyError. What
// fuses the shared expert with the routed ones (shared_experts_fusion_disable_reason in models/glm4_moe.py and
// deepseek_v2.py) leaves no layer to adapt, and the fused one no place in the experts' buffers. lora_config.py reads r,
// lora_alpha, use_dora and target_modules alone. Flags: arg_groups/fields/lora.py.
Server sglang() {
  const NameRule qkv{R"(self_attn\.[qkv]_proj)", kRead, "self_attn.qkv_proj"},
      o_proj{R"(self_attn\.o_proj)", kRead, "self_attn.o_proj"},
      experts{R"(mlp\.experts\.(\d+\.((gate|up|down)_proj|w[123])|w[123]))", kRead, "mlp.experts"},
      sparse_experts{R"((mlp|block_sparse_moe)\.experts\.(\d+\.((gate|up|down)_proj|w[123])|w[123]))", kRead,
                     "block_sparse_moe.experts"},
      fused{kWrappers, kRefused, "3-D experts in PEFT's layout are not read"},
      dense{R"(mlp\.(gate|up|down)_proj)", kRefused, "layers without experts are not adapted in a model with experts"};
  const std::vector<NameRule> head{{".*lm_head", kRead, "lm_head"}, {".*embed_tokens", kRead, "embed_tokens"}};
  const std::vector<std::string> targets{"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"};
  std::vector<std::string> hybrid_targets = targets;
  hybrid_targets.insert(hybrid_targets.end(), {"out_proj", "in_proj_qkvz"});
  const std::vector<std::string> mla_targets{"fused_qkv_a_proj_with_mqa",
                                             "q_b_proj",
                                             "kv_b_proj",
                                             "o_proj",
                                             "gate_up_proj",
                                             "down_proj",
                                             "embed_tokens",
                                             "lm_head",
                                             "indexer.wq_b",
                                             "indexer.wk",
                                             "indexer.weights_proj"};
  const std::vector<NameRule> mlp{{R"(mlp\.(gate|up)_proj)", kRead, "mlp.gate_up_proj"},
                                  {R"(mlp\.down_proj)", kRead, "mlp.down_proj"}},
      shared_expert{{R"(mlp\.shared_expert\.(gate|up)_proj)", kRead, "mlp.shared_expert.gate_up_proj"},
                    {R"(mlp\.shared_expert\.down_proj)", kRead, "mlp.shared_expert.down_proj"}},
      shared_experts{{R"(mlp\.shared_experts\.(gate|up)_proj)", kRead, "mlp.shared_experts.gate_up_proj"},
                     {R"(mlp\.shared_experts\.down_proj)", kRead, "mlp.shared_experts.down_proj"}};
  constexpr const char* kUnfused = "--disable-shared-experts-fusion ";
  const auto latent = [&](const std::string& name) -> FamilyRules {
    return {name,
            {kPerExpert},
            {},
            joined({{{R"(self_attn\.(q_a_proj|kv_a_proj_with_mqa))", kRead, "self_attn.fused_qkv_a_proj_with_mqa"},
                     {R"(self_attn\.(q_b_proj|kv_b_proj|indexer\.(wq_b|wk|weights_proj)))", kRead, ""},
                     o_proj,
                     experts,
                     fused},
                    mlp,
                    shared_experts}),
            head,
            mla_targets,
            kUnfused};
  };
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
      .companions = {{"q_proj", "v_proj"},
                     {"v_proj", "q_proj"},
                     {"k_proj", "q_proj"},
                     {"k_proj", "v_proj"},
                     {"up_proj", "gate_proj"},
                     {"w3", "w1"},
                     {"kv_a_proj_with_mqa", "q_a_proj"}},
      .target_names = {{"q_proj", "qkv_proj"},
                       {"k_proj", "qkv_proj"},
                       {"v_proj", "qkv_proj"},
                       {"gate_proj", "gate_up_proj"},
                       {"up_proj", "gate_up_proj"},
                       {"q_a_proj", "fused_qkv_a_proj_with_mqa"},
                       {"kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"},
                       {"wq_b", "indexer.wq_b"},
                       {"wk", "indexer.wk"},
                       {"weights_proj", "indexer.weights_proj"}},
      .families =
          {{"Qwen3-MoE", {kPerExpert}, {}, {qkv, o_proj, experts, fused, dense}, head, targets},
           {"Qwen3.5-MoE",
            {kPerExpert},
            {},
            joined({{qkv, o_proj, experts, fused},
                    shared_expert,
                    {{R"(linear_attn\.out_proj)", kRead, "linear_attn.out_proj"},
                     {R"(linear_attn\.in_proj_.*)", kRefused, "only one in_proj_qkvz for all of them is adapted"}}}),
            head,
            hybrid_targets},
           {"Mixtral", {kPerExpert}, {}, {qkv, o_proj, sparse_experts, fused}, head, targets},
           {"OLMoE", {kPerExpert}, {}, {qkv, o_proj, experts, fused}, head, targets},
           {"GLM-4.5",
            {kPerExpert},
            {},
            joined({{qkv, o_proj, experts, fused}, mlp, shared_experts}),
            head,
            targets,
            kUnfused},
           {"MiniMax-M2", {kPerExpert}, {}, {qkv, o_proj, sparse_experts, fused}, head, targets},
           {"Qwen2-MoE", {kPerExpert}, {}, joined({{qkv, o_proj, experts, fused}, mlp, shared_expert}), head, targets},
           {"ERNIE-4.5-MoE",
            {kPerExpert},
            {},
            {qkv, o_proj, fused, {R"(mlp\..*_proj)", kRefused, "the server has no buffers for this family's MLPs"}},
            head,
            {"qkv_proj", "o_proj", "embed_tokens", "lm_head"}},
           latent("DeepSeek-V3"),
           latent("GLM-4.7-Flash"),
           {"gpt-oss", {kPerExpert}, {}, {qkv, o_proj, experts, fused}, head, targets},
           {"Qwen3-Next",
            {kPerExpert},
            {},
            joined({{o_proj,
                     {R"(self_attn\.[qkv]_proj)", kRefused, "the server's qkv_proj has no rows for the output gate"},
                     {R"(linear_attn\..*)", kRefused, "the server knows no sizes of linear attention here"},
                     experts,
                     fused},
                    mlp,
                    shared_expert}),
            head,
            {"o_proj", "gate_up_proj", "down_proj", "embed_tokens", "lm_head"}}},
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
