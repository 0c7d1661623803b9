// DeepSeek-V4 beyond what every family is tested for (family_golden_test.cpp): layer by layer, what its layers choose,
// quantised files.
#include <gtest/gtest.h>

#include <map>

#include "adapter/peft_export.h"
#include "infer/generate.h"
#include "infer/score.h"
#include "models/deepseek_v4/model.h"
#include "models/image_weight.h"
#include "opened_golden.h"
#include "run/batch.h"
#include "train/pass.h"
#include "train/step.h"

namespace moraine {
namespace {

// Runs layer by layer, each from the reference's output of the one before. body(layer, output, expected, record).
template <typename Body>
void for_each_layer(Golden& golden, const Body& body) {
  at::NoGradGuard no_grad;
  const Batch batch = golden.one_batch();
  ForwardContext context;
  context.batch = &batch;
  context.experts = golden.loaded.experts.get();
  const ImageView& root = golden.loaded.weights->acquire(kRootImage);
  at::Tensor hidden = golden.loaded.model->embed(root, batch);
  for (int64_t layer = 0; layer < golden.loaded.model->shape().num_hidden_layers; ++layer) {
    LayerRecord record;
    const ImageView& dense = golden.loaded.weights->acquire(dense_image(layer));
    const ImageView& experts = golden.loaded.weights->acquire(experts_image(layer));
    const at::Tensor out = golden.loaded.model->forward_layer({layer, dense, experts, {}, context, record}, hidden);
    const at::Tensor expected = golden.at_tokens(golden.forward("layers." + std::to_string(layer) + ".hidden_out"));
    body(layer, out.cpu(), expected, record);
    hidden = expected.to(out.options());
    golden.loaded.weights->release(experts_image(layer));
    golden.loaded.weights->release(dense_image(layer));
  }
  golden.loaded.weights->release(kRootImage);
}

at::Tensor layer_tensor(const Golden& golden, int64_t layer, const std::string& name) {
  return golden.forward("layers." + std::to_string(layer) + "." + name);
}

TEST(DeepseekV4Fp32, EveryLayerFromTheOneBefore) {
  Golden golden("deepseek_v4-fp32");
  for_each_layer(
      golden, [&](int64_t layer, const at::Tensor& out, const at::Tensor& expected, const LayerRecord& record) {
        EXPECT_LT(relative_error(out, expected), 1e-5) << "layer " << layer;
        const at::Tensor indices = layer_tensor(golden, layer, "router.indices").index({golden.mask.flatten()});
        EXPECT_TRUE(at::equal(record.chosen_experts_TK.cpu(), indices)) << "layer " << layer;
      });
}

// The indexer's choice of compressed entries, of the tokens that have one.
TEST(DeepseekV4Fp32, EntriesThatAreAttendedTo) {
  Golden golden("deepseek_v4-fp32");
  int64_t compared = 0;
  for_each_layer(golden, [&](int64_t layer, const at::Tensor&, const at::Tensor&, const LayerRecord& record) {
    const auto* chosen = record.choices.find<deepseek_v4::ChosenEntries>();
    if (!chosen) return;
    const at::Tensor topk = layer_tensor(golden, layer, "indexer.topk");
    for (size_t s = 0; s < golden.batch.samples.size(); ++s) {
      const int64_t length = static_cast<int64_t>(golden.batch.samples[s].input_ids.size());
      if (!chosen->at(s).defined()) continue;
      const int64_t choosing = chosen->at(s).size(0);
      const at::Tensor expected = topk[s].narrow(0, length - choosing, choosing);
      EXPECT_TRUE(expected.ge(0).all().item<bool>());
      EXPECT_TRUE(at::equal(std::get<0>(chosen->at(s).cpu().to(at::kLong).sort(-1)), std::get<0>(expected.sort(-1))));
      // Tokens before them see no more than they may choose: the reference chose all of it.
      const at::Tensor seen = at::arange(1, length - choosing + 1).floor_divide(4).clamp_max(topk.size(-1));
      EXPECT_TRUE(at::equal(topk[s].narrow(0, 0, length - choosing).ge(0).sum(-1), seen));
      compared += choosing;
    }
  });
  EXPECT_GT(compared, 100);
}

TEST(DeepseekV4Bf16, EveryLayerFromTheOneBefore) {
  Golden golden("deepseek_v4-bf16");
  for_each_layer(
      golden, [&](int64_t layer, const at::Tensor& out, const at::Tensor& expected, const LayerRecord& record) {
        const at::Tensor error = (out.to(at::kFloat) - expected.to(at::kFloat)).abs();
        EXPECT_LT(error.mean().item<double>(), 0.004 * expected.to(at::kFloat).square().mean().sqrt().item<double>())
            << "layer " << layer;
        const at::Tensor indices = layer_tensor(golden, layer, "router.indices").index({golden.mask.flatten()});
        EXPECT_LE(record.chosen_experts_TK.cpu().ne(indices).any(-1).sum().item<int64_t>(), 1) << "layer " << layer;
      });
}

// Tokens that only fill a sequence up change nothing for the others.
TEST(DeepseekV4Fp32, FillingTokensAreNotSeen) {
  Golden golden("deepseek_v4-fp32");
  const at::Tensor plain = forward(golden.loaded, nullptr, golden.one_batch());
  const Batch filled = golden.one_batch(16);
  ASSERT_TRUE(filled.real_T.defined());
  EXPECT_LT(relative_error(forward(golden.loaded, nullptr, filled).index({filled.real_T}), plain), 1e-6);
}

// A rank without rows takes part all the same.
TEST(DeepseekV4Fp32, NoTokens) {
  Golden golden("deepseek_v4-fp32");
  OpenedAdapter adapter = golden.adapter();
  adapter.state.zero_grads();
  for (const Recompute recompute : {Recompute::kFull, Recompute::kNone})
    EXPECT_EQ(forward_backward(golden.loaded, adapter.state, make_batch({}, golden.loaded.device, 1), 1.0, recompute)
                  .loss_sum,
              0);
  EXPECT_EQ(
      adapter.state.dense().grads.abs().sum().item<float>() + adapter.state.experts().grads.abs().sum().item<float>(),
      0);
}

// Greedy text: each token is the best one after all before it, as one pass over the whole sequence has it.
TEST(DeepseekV4Fp32, GeneratesWhatTheWholeSequenceSays) {
  Golden golden("deepseek_v4-fp32");
  const std::vector<int64_t> prompt(golden.batch.samples[0].input_ids.begin(),
                                    golden.batch.samples[0].input_ids.begin() + 20);
  std::vector<int64_t> seen;
  const std::vector<int64_t> tokens = generate(
      golden.loaded, nullptr, prompt, {.max_new_tokens = 6, .stop_ids = {}},
      [&](int64_t token) { seen.push_back(token); }, *golden.groups.world);
  ASSERT_EQ(tokens.size(), 6u);
  EXPECT_EQ(seen, tokens);
  Sample sample;
  sample.input_ids = prompt;
  sample.input_ids.insert(sample.input_ids.end(), tokens.begin(), tokens.end());
  sample.labels.assign(sample.input_ids.size(), -100);
  for (size_t i = 0; i < sample.input_ids.size(); ++i) sample.position_ids.push_back(i);
  const at::Tensor hidden = forward(golden.loaded, nullptr, make_batch({&sample}, golden.loaded.device, 1));
  const at::Tensor head = golden.loaded.model->head_weight_VD(golden.loaded.weights->acquire(kRootImage));
  golden.loaded.weights->release(kRootImage);
  const at::Tensor best = at::mm(hidden, head.t()).argmax(-1);
  for (size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(best[19 + i].item<int64_t>(), tokens[i]) << i;
}

// Quantised weights are what the files' definition says, bit for bit, in either dtype and on every device's operations.
TEST(DeepseekV4Quantised, WeightsAreExact) {
  Golden golden("deepseek_v4-fp8fp4");
  const SafetensorsHeader reference = read_safetensors_header(golden.folder / "dequantised.safetensors");
  const auto expected = [&](const std::string& name) { return read_tensor(reference, *reference.find(name)); };
  int64_t compared = 0;
  const auto compare = [&](const FrozenWeight& weight, const at::Tensor& wanted, const std::string& name) {
    ASSERT_TRUE(weight.quantized()) << name;
    EXPECT_TRUE(at::equal(dequantize(weight, at::kBFloat16).cpu(), wanted)) << name;
    EXPECT_TRUE(at::equal(dequantize(weight, at::kFloat).cpu(), wanted.to(at::kFloat))) << name;
    EXPECT_TRUE(at::equal(dequantize_by_tensor_ops(weight, at::kBFloat16).cpu(), wanted)) << name;
    ++compared;
  };
  for (int64_t layer = 0; layer < golden.loaded.model->shape().num_hidden_layers; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    if (!reference.find(prefix + "attn.wkv.weight")) continue;
    const ImageView& dense = golden.loaded.weights->acquire(dense_image(layer));
    const ImageView& experts = golden.loaded.weights->acquire(experts_image(layer));
    for (const auto& [name, tensor] :
         std::map<std::string, std::string>{{"self_attn.q_a_proj", "attn.wq_a"},
                                            {"self_attn.q_b_proj", "attn.wq_b"},
                                            {"self_attn.kv_proj", "attn.wkv"},
                                            {"self_attn.o_a_proj", "attn.wo_a"},
                                            {"self_attn.o_b_proj", "attn.wo_b"},
                                            {"self_attn.compressor.indexer.q_b_proj", "attn.indexer.wq_b"},
                                            {"mlp.shared_experts.gate_proj", "ffn.shared_experts.w1"},
                                            {"mlp.shared_experts.up_proj", "ffn.shared_experts.w3"},
                                            {"mlp.shared_experts.down_proj", "ffn.shared_experts.w2"}}) {
      if (!dense.has(name + ".weight")) continue;
      const FrozenWeight weight = weight_of(dense, name + ".weight");
      EXPECT_EQ(weight.values.scalar_type(), at::kFloat8_e4m3fn) << name;
      compare(weight, expected(prefix + tensor + ".weight"), name);
    }
    for (int64_t e = 0; e < golden.loaded.model->shape().num_experts; ++e) {
      const auto expert = [&](const std::string& w) {
        return expected(prefix + "ffn.experts." + std::to_string(e) + "." + w + ".weight");
      };
      EXPECT_TRUE(weight_of(experts, "mlp.experts.down_proj").format->is_fp4());
      compare(weight_of(experts, "mlp.experts.gate_up_proj").of_expert(e), at::cat({expert("w1"), expert("w3")}),
              "gate_up_proj");
      compare(weight_of(experts, "mlp.experts.down_proj").of_expert(e), expert("w2"), "down_proj");
    }
    golden.loaded.weights->release(experts_image(layer));
    golden.loaded.weights->release(dense_image(layer));
  }
  EXPECT_GT(compared, 10);
}

TEST(DeepseekV4Quantised, LogitsAndLoss) {
  Golden golden("deepseek_v4-fp8fp4", DtypeChoice::kFloat32);
  for (const bool adapted : {false, true}) {
    std::optional<OpenedAdapter> adapter;
    if (adapted) adapter = golden.adapter();
    const ScoreResult result = score(golden.loaded, adapted ? &adapter->state : nullptr, golden.batch, "batch",
                                     {.logits = true}, golden.groups);
    const auto file = golden.folder / (adapted ? "lora/forward.safetensors" : "forward.safetensors");
    EXPECT_LT(relative_error(golden.at_tokens(result.logits), golden.at_tokens(golden_tensor(file, "logits"))), 1e-4)
        << adapted;
    EXPECT_NEAR(result.loss, golden_tensor(file, "loss").item<float>(), 1e-5) << adapted;
  }
}

TEST(DeepseekV4Quantised, EveryAdapterGradient) {
  Golden golden("deepseek_v4-fp8fp4", DtypeChoice::kFloat32);
  OpenedAdapter adapter = golden.adapter();
  score(golden.loaded, &adapter.state, golden.batch, "batch", {.grads = true}, golden.groups);
  const SafetensorsHeader reference = read_safetensors_header(golden.folder / "lora" / "grads.safetensors");
  const auto grads = peft_tensors(adapter.state, AdapterPart::kGrads, *golden.groups.ep);
  ASSERT_EQ(grads.size(), reference.entries.size());
  for (const auto& [name, grad] : grads)
    EXPECT_LT(relative_error(grad, read_tensor(reference, *reference.find(name))), 1e-4) << name;
}

}  // namespace
}  // namespace moraine
