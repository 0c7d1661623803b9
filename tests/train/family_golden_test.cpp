// Each family against transformers + PEFT: logits, losses, gradients and a training curve.
#include <gtest/gtest.h>

#include <fstream>

#include "adapter/peft_export.h"
#include "base/json.h"
#include "families.h"
#include "infer/generate.h"
#include "infer/score.h"
#include "opened_golden.h"
#include "run/batch.h"
#include "train/pass.h"
#include "train/step.h"

namespace moraine {
namespace {

using testing_support::families;
using testing_support::golden_models;

// How far a training curve may be from the reference's: losses, gradient norms (relative), and the adapter after it.
struct Curve {
  double loss, norm, adapter;
};
// As tests/golden/families.json says, with the reasons.
Curve curve_of(const std::string& family, const char* which) {
  const Json& curve = families()[family]["curves"][which];
  return {curve[0], curve[1], curve[2]};
}

// The parameter: a family's name.
class FamilyFp32 : public testing::TestWithParam<std::string> {
 protected:
  std::string name() const { return GetParam() + "-fp32"; }
  // How far the gradient of an adapter's tensor may be from the reference's: as families.json says of it, or
  // `otherwise`.
  double gradient_limit(const std::string& tensor, double otherwise) const {
    const Json& family = families()[GetParam()];
    if (family.contains("gradients"))
      for (const auto& [ending, limit] : family["gradients"].items())
        if (tensor.ends_with(ending)) return limit;
    return otherwise;
  }
};
class FamilyBf16 : public testing::TestWithParam<std::string> {
 protected:
  std::string name() const { return GetParam() + "-bf16"; }
};
std::vector<std::string> families_in(const std::string& storage) {
  std::vector<std::string> names;
  for (const std::string& golden : golden_models({storage})) names.push_back(golden.substr(0, golden.rfind('-')));
  return names;
}
const auto kName = [](const auto& info) { return info.param; };
INSTANTIATE_TEST_SUITE_P(, FamilyFp32, testing::ValuesIn(families_in("fp32")), kName);
INSTANTIATE_TEST_SUITE_P(, FamilyBf16, testing::ValuesIn(families_in("bf16")), kName);

const Json read_train_json(const Golden& golden) { return read_json_file(golden.folder / "lora" / "train.json"); }

TEST_P(FamilyFp32, LogitsAndLossWithoutAdapter) {
  Golden golden(name());
  const ScoreResult result = score(golden.loaded, nullptr, golden.batch, "batch", {.logits = true}, golden.groups);
  const auto forward = golden.folder / "forward.safetensors";
  EXPECT_LT(relative_error(golden.at_tokens(result.logits), golden.at_tokens(golden_tensor(forward, "logits"))), 1e-4);
  EXPECT_NEAR(result.loss, golden_tensor(forward, "loss").item<float>(), 1e-5);
}

TEST_P(FamilyFp32, LogitsAndLossWithAdapter) {
  Golden golden(name());
  OpenedAdapter adapter = golden.adapter();
  const ScoreResult result =
      score(golden.loaded, &adapter.state, golden.batch, "batch", {.logits = true}, golden.groups);
  const auto forward = golden.folder / "lora" / "forward.safetensors";
  EXPECT_LT(relative_error(golden.at_tokens(result.logits), golden.at_tokens(golden_tensor(forward, "logits"))), 1e-4);
  EXPECT_NEAR(result.loss, golden_tensor(forward, "loss").item<float>(), 1e-5);
}

TEST_P(FamilyFp32, EveryAdapterGradient) {
  Golden golden(name());
  OpenedAdapter adapter = golden.adapter();
  score(golden.loaded, &adapter.state, golden.batch, "batch", {.grads = true}, golden.groups);
  const auto grads = peft_tensors(adapter.state, AdapterPart::kGrads, *golden.groups.ep);
  const SafetensorsHeader reference = read_safetensors_header(golden.folder / "lora" / "grads.safetensors");
  ASSERT_EQ(grads.size(), reference.entries.size());
  for (const auto& [name, grad] : grads)
    EXPECT_LT(relative_error(grad, read_tensor(reference, *reference.find(name))), gradient_limit(name, 1e-4)) << name;
}

// 12 steps as the golden's train.json says; compares each step, then the adapter after the last. Returns the losses.
std::vector<double> check_training_curve(const std::string& name, Curve first_steps, Curve all, Recompute recompute,
                                         DtypeChoice dtype = DtypeChoice::kAuto) {
  Golden golden(name, dtype);
  OpenedAdapter adapter = golden.adapter();
  TrainConfig config;
  config.learning_rate = 1e-3;
  config.weight_decay = 0.01;
  config.warmup_steps = 2;
  config.recompute = recompute;
  AdamW optimizer(adapter.state, config);
  const Json reference = read_train_json(golden);
  std::vector<TokensFile> batches;
  for (const char* prefix : {"0.", "1.", "2."})
    batches.push_back(golden_batch(golden.folder / "lora" / "train_batches.safetensors", prefix));
  const int64_t steps = static_cast<int64_t>(reference["steps"].size());
  std::vector<double> losses;
  for (int64_t step = 0; step < steps; ++step) {
    const Json& expected = reference["steps"][step];
    const double learning_rate = scheduled_learning_rate(config, step, steps);
    EXPECT_NEAR(learning_rate, expected["lr"].get<double>(), 1e-12);
    std::vector<TrainingRow> rows;
    for (const Sample& sample : batches[step % 3].samples) rows.push_back({&sample});
    const StepResult result =
        train_step(golden.loaded, adapter.state, optimizer, rows, config, learning_rate, golden.groups);
    const Curve& limit = step < 3 ? first_steps : all;
    EXPECT_NEAR(result.loss, expected["loss"].get<double>(), limit.loss) << "step " << step;
    EXPECT_NEAR(result.grad_norm / expected["grad_norm"].get<double>(), 1.0, limit.norm) << "step " << step;
    losses.push_back(result.loss);
  }
  if (all.adapter <= 0) return losses;
  const SafetensorsHeader after =
      read_safetensors_header(golden.folder / "lora" / "adapter_after" / "adapter_model.safetensors");
  for (const auto& [tensor_name, value] : peft_tensors(adapter.state, AdapterPart::kValues, *golden.groups.ep))
    EXPECT_LT(relative_error(value, read_tensor(after, *after.find(tensor_name))), all.adapter) << tensor_name;
  return losses;
}

TEST_P(FamilyFp32, TrainingCurveAndFinalAdapter) {
  check_training_curve(name(), curve_of(GetParam(), "fp32 first steps"), curve_of(GetParam(), "fp32"),
                       Recompute::kFull);
}

TEST_P(FamilyFp32, TrainingCurveWithoutRecompute) {
  check_training_curve(name(), curve_of(GetParam(), "fp32 first steps"), curve_of(GetParam(), "fp32"),
                       Recompute::kNone);
}

// Quantised weights under fp32 activations, as the reference has them. Clamps and choices have near ties from step 2
// on: from an adapter moved by a millionth the reference's own gradient norms differ by up to 3e-3 (ten runs, two of
// which give the very norms found here).
TEST(QuantisedFp32, TrainingCurveAndFinalAdapter) {
  const Curve limit{1e-4, 3e-3, 1e-3};
  check_training_curve("deepseek_v4-fp8fp4", limit, limit, Recompute::kFull, DtypeChoice::kFloat32);
}

TEST(QuantisedFp32, GptOssCurveAndFinalAdapter) {
  const Curve limit{1e-4, 1e-4, 1e-3};
  check_training_curve("gpt_oss-mxfp4", limit, limit, Recompute::kFull, DtypeChoice::kFloat32);
}

TEST(QuantisedFp32, GptOssLogitsAndGradients) {
  Golden golden("gpt_oss-mxfp4", DtypeChoice::kFloat32);
  for (const bool adapted : {false, true}) {
    std::optional<OpenedAdapter> adapter;
    if (adapted) adapter = golden.adapter();
    const ScoreResult result = score(golden.loaded, adapted ? &adapter->state : nullptr, golden.batch, "batch",
                                     {.logits = true, .grads = adapted}, golden.groups);
    const auto forward = golden.folder / (adapted ? "lora/forward.safetensors" : "forward.safetensors");
    EXPECT_LT(relative_error(golden.at_tokens(result.logits), golden.at_tokens(golden_tensor(forward, "logits"))),
              1e-4);
    EXPECT_NEAR(result.loss, golden_tensor(forward, "loss").item<float>(), 1e-5);
    if (!adapted) continue;
    for (const auto& [name, grad] : peft_tensors(adapter->state, AdapterPart::kGrads, *golden.groups.ep))
      EXPECT_LT(relative_error(grad, golden_tensor(golden.folder / "lora" / "grads.safetensors", name)), 1e-4) << name;
  }
}

TEST_P(FamilyBf16, LogitsWithinRoundingOfTheReference) {
  Golden golden(name());
  for (const bool adapted : {false, true}) {
    std::optional<OpenedAdapter> adapter;
    if (adapted) adapter = golden.adapter();
    const ScoreResult result = score(golden.loaded, adapted ? &adapter->state : nullptr, golden.batch, "batch",
                                     {.logits = true}, golden.groups);
    const auto forward = golden.folder / (adapted ? "lora/forward.safetensors" : "forward.safetensors");
    const at::Tensor expected = golden.at_tokens(golden_tensor(forward, "logits"));
    const at::Tensor error = (golden.at_tokens(result.logits) - expected).abs();
    EXPECT_LT(error.mean().item<double>(), 0.03 * expected.square().mean().sqrt().item<double>()) << adapted;
    EXPECT_NEAR(result.loss, golden_tensor(forward, "loss").item<float>(), 2e-2) << adapted;
  }
}

// On average over the steps the losses are no further from the reference's than twice what bf16 costs the reference
// itself.
TEST_P(FamilyBf16, TrainingCurve) {
  const Curve limit = curve_of(GetParam(), "bf16");
  const std::vector<double> losses = check_training_curve(name(), limit, limit, Recompute::kFull);
  const Json reference = read_json_file(golden_folder(name()) / "lora" / "train.json");
  double distance = 0, cost_of_bf16 = 0;
  for (size_t step = 0; step < losses.size(); ++step) {
    const double expected = reference["steps"][step]["loss"];
    distance += std::abs(losses[step] - expected);
    cost_of_bf16 += std::abs(reference["steps_upcast_fp32"][step]["loss"].get<double>() - expected);
  }
  EXPECT_LT(distance, 2 * cost_of_bf16);
}

// All gradients as one vector: as near to those of the same weights in fp32 as the reference's bf16 gradients are.
TEST_P(FamilyBf16, GradientsPointWhereFp32OnesDo) {
  Golden golden(name());
  OpenedAdapter adapter = golden.adapter();
  score(golden.loaded, &adapter.state, golden.batch, "batch", {.grads = true}, golden.groups);
  std::vector<at::Tensor> found, reference, exact;
  for (const auto& [tensor_name, grad] : peft_tensors(adapter.state, AdapterPart::kGrads, *golden.groups.ep)) {
    found.push_back(grad.flatten());
    reference.push_back(golden_tensor(golden.folder / "lora" / "grads.safetensors", tensor_name).flatten());
    exact.push_back(golden_tensor(golden.folder / "lora" / "grads_upcast_fp32.safetensors", tensor_name).flatten());
  }
  const at::Tensor fp32 = at::cat(exact).to(at::kDouble);
  const auto cosine = [&](const std::vector<at::Tensor>& parts) {
    const at::Tensor x = at::cat(parts).to(at::kDouble);
    return (x.dot(fp32) / (x.norm() * fp32.norm())).item<double>();
  };
  EXPECT_GT(cosine(found), cosine(reference) - 0.005);
}

// Loss and gradients of the golden batch's sequences, in the rows that `rows_of` makes of them.
std::pair<double, at::Tensor> step_gradients(Golden& golden, std::optional<int64_t> micro_batch_size,
                                             const std::vector<std::vector<int64_t>>& packed,
                                             MicroBatchTokens micro_batch_tokens = {}) {
  OpenedAdapter adapter = golden.adapter();
  TrainConfig config;
  config.micro_batch_size = micro_batch_size;
  config.micro_batch_tokens = micro_batch_tokens;
  AdamW optimizer(adapter.state, config);
  std::vector<TrainingRow> rows;
  for (const auto& samples : packed) {
    rows.emplace_back();
    for (int64_t sample : samples) rows.back().push_back(&golden.batch.samples[sample]);
  }
  const StepResult result = train_step(golden.loaded, adapter.state, optimizer, rows, config, 0.0, golden.groups);
  return {result.loss, at::cat({adapter.state.dense().grads, adapter.state.experts().grads}).clone()};
}

// A row for each of the golden's sequences.
std::vector<std::vector<int64_t>> separate_rows(const Golden& golden) {
  std::vector<std::vector<int64_t>> rows;
  for (int64_t sample = 0; sample < static_cast<int64_t>(golden.batch.samples.size()); ++sample)
    rows.push_back({sample});
  return rows;
}

TEST_P(FamilyFp32, GradientDoesNotDependOnMicroBatches) {
  Golden golden(name());
  const auto rows = separate_rows(golden);
  const auto [loss, grads] = step_gradients(golden, 1, rows);
  for (int64_t micro_batch_size = 2; micro_batch_size <= static_cast<int64_t>(rows.size()); ++micro_batch_size)
    EXPECT_LT(relative_error(step_gradients(golden, micro_batch_size, rows).second, grads), 1e-5);
  const auto by_tokens = step_gradients(golden, std::nullopt, rows, {MicroBatchTokens::Kind::kTokens, 1});
  EXPECT_EQ(by_tokens.first, loss);
  EXPECT_TRUE(at::equal(by_tokens.second, grads)) << "each row alone, as before";
}

// Packed sequences do not see each other: outputs and gradients are those of separate rows.
TEST_P(FamilyFp32, PackedRowsEqualSeparateOnes) {
  Golden golden(name());
  const auto rows = separate_rows(golden);
  const auto [loss, grads] = step_gradients(golden, 1, rows);
  std::vector<std::vector<std::vector<int64_t>>> packings{{{0, 1}}};
  if (rows.size() == 3) packings = {{{0, 1, 2}}, {{0, 2}, {1}}, {{1, 2}, {0}}};
  for (const std::vector<std::vector<int64_t>>& packed : packings) {
    const auto [packed_loss, packed_grads] = step_gradients(golden, 1, packed);
    EXPECT_NEAR(packed_loss, loss, 1e-6);
    EXPECT_LT(relative_error(packed_grads, grads), 1e-5);
  }
}

// What generate does: a prompt, then tokens one at a time with what the layers remember, gives what a pass over the
// whole does.
TEST_P(FamilyFp32, CachesContinueTheSequence) {
  Golden golden(name());
  if (!golden.loaded.model->has_cache()) GTEST_SKIP() << "generate runs the whole text again for every token";
  OpenedAdapter adapter = golden.adapter();
  const Sample& row = golden.batch.samples[0];
  const int64_t length = static_cast<int64_t>(row.input_ids.size()), prompt = length - 6;
  const auto part = [&](int64_t begin, int64_t n) {
    Sample sample;
    for (auto [from, to] : {std::pair{&row.input_ids, &sample.input_ids},
                            {&row.labels, &sample.labels},
                            {&row.position_ids, &sample.position_ids}})
      to->assign(from->begin() + begin, from->begin() + begin + n);
    return make_batch({&sample}, golden.loaded.device, 1);
  };
  const at::Tensor whole = forward(golden.loaded, &adapter.state, part(0, length));
  std::vector<LayerCache> caches(golden.loaded.model->shape().num_hidden_layers);
  std::vector<at::Tensor> pieces{forward(golden.loaded, &adapter.state, part(0, prompt), &caches)};
  for (int64_t t = prompt; t < length; ++t)
    pieces.push_back(forward(golden.loaded, &adapter.state, part(t, 1), &caches));
  EXPECT_LT(relative_error(at::cat(pieces), whole), 2e-5);

  // And generate itself, greedily: each token is the best after all before it.
  std::vector<int64_t> ids(row.input_ids.begin(), row.input_ids.begin() + 20);
  GenerateOptions options;
  options.max_new_tokens = 8;
  const std::vector<int64_t> made = generate(
      golden.loaded, &adapter.state, ids, options, [](int64_t) {}, *golden.groups.world);
  ASSERT_EQ(made.size(), 8u);
  const ImageView& root = golden.loaded.weights->acquire(kRootImage);
  const at::Tensor head = golden.loaded.model->head_weight_VD(root);
  for (int64_t token : made) {
    Sample sample{ids, ids, {}};
    for (size_t t = 0; t < ids.size(); ++t) sample.position_ids.push_back(static_cast<int64_t>(t));
    const at::Tensor hidden = forward(golden.loaded, &adapter.state, make_batch({&sample}, golden.loaded.device, 1));
    EXPECT_EQ(at::mv(head, hidden[hidden.size(0) - 1]).argmax().item<int64_t>(), token);
    ids.push_back(token);
  }
  golden.loaded.weights->release(kRootImage);
}

// transformers' auxiliary loss of the routers (tools/make_router_loss_fixture.py), whatever the micro-batches: with
// several the choices are counted ahead.
TEST_P(FamilyFp32, RouterLossAndItsGradient) {
  Golden golden(name());
  if (!golden.loaded.model->shape().has_router_loss) GTEST_SKIP() << "transformers' class has none";
  const Json expected = read_json_file(golden.folder / "lora" / "router_loss.json");
  const SafetensorsHeader grads = read_safetensors_header(golden.folder / "lora" / "router_loss_grads.safetensors");
  const double limit = families()[GetParam()]["router_loss_gradient"];
  for (const Recompute recompute : {Recompute::kFull, Recompute::kNone}) {
    for (int64_t micro_batch_size : {3, 1}) {
      OpenedAdapter adapter = golden.adapter();
      TrainConfig config;
      config.micro_batch_size = micro_batch_size;
      config.recompute = recompute;
      config.aux_loss_coef = expected["coefficient"];
      AdamW optimizer(adapter.state, config);
      std::vector<TrainingRow> rows;
      for (const Sample& sample : golden.batch.samples) rows.push_back({&sample});
      const StepResult result = train_step(golden.loaded, adapter.state, optimizer, rows, config, 0.0, golden.groups);
      EXPECT_NEAR(result.aux_loss, expected["aux_loss"].get<double>(), 1e-5);
      EXPECT_NEAR(result.loss, expected["loss"].get<double>(), 1e-5);
      EXPECT_GT(result.expert_load_imbalance, 1.0);
      for (const auto& [name, grad] : peft_tensors(adapter.state, AdapterPart::kGrads, *golden.groups.ep))
        EXPECT_LT(relative_error(grad, read_tensor(grads, *grads.find(name))), gradient_limit(name, limit)) << name;
    }
  }
}

}  // namespace
}  // namespace moraine
