// Several adapters as one: the sums that PEFT's add_weighted_adapter makes, also of experts, routers and other targets.
#include "adapter/weighted_adapters.h"

#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "adapter/convert_adapter.h"
#include "adapter/make_adapter.h"
#include "adapter/peft_export.h"
#include "base/file.h"
#include "base/json.h"
#include "base/temp_folder.h"
#include "distributed/collectives/mesh_groups.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class WeightedAdapters : public testing::Test {
 protected:
  // An adapter in folder_ / name, its B random.
  WeightedAdapter make(const std::string& name, double weight, const AdapterConfig& wanted,
                       const std::string& base = "models/base") {
    MeshGroups groups = single_rank_groups();
    OpenedAdapter made = make_adapter(*layout_, wanted, base, {0, 8}, at::kCPU);
    for (const AdapterEntry& entry : made.state.entries()) made.state.b(entry).normal_(0, 0.1);
    export_adapter(made.state, made.config, folder_ / name, *groups.ep);
    return {folder_ / name, weight};
  }
  static AdapterConfig config(int64_t r, double alpha, std::vector<std::string> modules,
                              std::vector<std::string> parameters) {
    AdapterConfig wanted;
    wanted.r = r;
    wanted.lora_alpha = alpha;
    wanted.target_modules = {.all_linear = false, .regex = {}, .names = std::move(modules)};
    wanted.target_parameters = std::move(parameters);
    return wanted;
  }
  // scaling·B·A of each module in fp64, [E, O, I] or [O, I].
  std::map<std::string, at::Tensor> products(const AdapterFactors& factors) {
    std::map<std::string, at::Tensor> products;
    for (size_t i = 0; i < factors.modules().size(); ++i)
      products[factors.modules()[i].name] =
          at::matmul(factors.read_b(i).to(at::kDouble), factors.read_a(i).to(at::kDouble)) *
          factors.modules()[i].scaling;
    return products;
  }
  std::map<std::string, at::Tensor> products_in(const fs::path& adapter) {
    return products(PeftWeights(*layout_, adapter, read_adapter_selection(*layout_, adapter).targets.modules));
  }
  std::map<std::string, at::Tensor> sum_of(const std::vector<WeightedAdapter>& adapters) {
    std::map<std::string, at::Tensor> sums;
    for (const WeightedAdapter& adapter : adapters)
      for (const auto& [name, product] : products_in(adapter.folder)) {
        const at::Tensor weighted = product * adapter.weight;
        sums[name] = sums.contains(name) ? sums[name] + weighted : weighted;
      }
    return sums;
  }
  static void expect_equal(const std::map<std::string, at::Tensor>& found,
                           const std::map<std::string, at::Tensor>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, product] : expected) {
      ASSERT_TRUE(found.contains(name)) << name;
      EXPECT_LT(relative_error(found.at(name), product), 1e-6) << name;
    }
  }

  TempFolder folder_;
  const std::unique_ptr<ModelLayout> layout_ = make_layout(HfConfig::read(golden_folder("qwen3_moe-fp32") / "model"));
};

TEST_F(WeightedAdapters, CatIsTheExactSumOnAllTargets) {
  AdapterConfig scaled = config(4, 3, {"q_proj"}, {"mlp.experts.down_proj"});
  scaled.use_rslora = true;
  AdapterConfig patterned = config(3, 5, {"q_proj", "v_proj"}, {"mlp.gate.weight", "mlp.experts.down_proj"});
  patterned.rank_pattern = {{"layers.1.self_attn.q_proj", 2}};
  const std::vector<WeightedAdapter> adapters{make("one", 0.7, scaled), make("two", -1.5, patterned),
                                              make("three", 1, config(2, 2, {"o_proj"}, {}))};
  const auto expected = sum_of(adapters);
  expect_equal(products(*open_factors(*layout_, adapters)), expected);
  const MergedAdapters merged = merge_adapters(*layout_, adapters, CombineMethod::kCat, folder_ / "cat");
  expect_equal(products_in(folder_ / "cat"), expected);
  EXPECT_EQ(merged.linear_layers, 3 * layout_->shape().num_hidden_layers);
  EXPECT_EQ(merged.parameters, 2 * layout_->shape().num_hidden_layers);
  EXPECT_EQ(merged.lowest_rank, 2);
  EXPECT_EQ(merged.highest_rank, 7);
  for (const LoraModule& module : read_adapter_selection(*layout_, folder_ / "cat").targets.modules)
    EXPECT_EQ(module.scaling, 1) << module.name;
  EXPECT_EQ(read_lora_config(folder_ / "cat").base_model_name_or_path, "models/base");

  merge_adapters(*layout_, adapters, CombineMethod::kCat, folder_ / "again");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    EXPECT_TRUE(read_text_file(folder_ / "cat" / file) == read_text_file(folder_ / "again" / file)) << file;
}

TEST_F(WeightedAdapters, LinearAddsFactors) {
  const std::vector<WeightedAdapter> adapters{
      make("one", 0.7, config(4, 3, {"q_proj"}, {"mlp.experts.down_proj"})),
      make("two", -1.5, config(4, 8, {"q_proj", "v_proj"}, {"mlp.experts.down_proj"}))};
  merge_adapters(*layout_, adapters, CombineMethod::kLinear, folder_ / "linear");
  const AdapterSelection selection = read_adapter_selection(*layout_, folder_ / "linear");
  const PeftWeights found(*layout_, folder_ / "linear", selection.targets.modules);
  std::map<std::string, std::pair<at::Tensor, at::Tensor>> expected;
  for (const WeightedAdapter& adapter : adapters) {
    const PeftWeights weights(*layout_, adapter.folder,
                              read_adapter_selection(*layout_, adapter.folder).targets.modules);
    for (size_t i = 0; i < weights.modules().size(); ++i) {
      const double factor = adapter.weight * weights.modules()[i].scaling, root = std::sqrt(std::abs(factor));
      const at::Tensor a = weights.read_a(i) * (factor < 0 ? -root : root), b = weights.read_b(i) * root;
      const auto [place, is_new] = expected.try_emplace(weights.modules()[i].name, a, b);
      if (!is_new) place->second = {place->second.first + a, place->second.second + b};
    }
  }
  ASSERT_EQ(found.modules().size(), expected.size());
  for (size_t i = 0; i < found.modules().size(); ++i) {
    const LoraModule& module = found.modules()[i];
    EXPECT_EQ(module.r, 4);
    EXPECT_EQ(module.scaling, 1);
    EXPECT_LT(relative_error(found.read_a(i), expected.at(module.name).first), 1e-6) << module.name;
    EXPECT_LT(relative_error(found.read_b(i), expected.at(module.name).second), 1e-6) << module.name;
  }
}

// Factors that all experts share are in a tensor each in one of these, and repeated in the other.
TEST_F(WeightedAdapters, OfSharedOuterExperts) {
  AdapterConfig wanted = config(4, 3, {"q_proj"}, {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"});
  wanted.experts = ExpertFactors::kSharedOuter;
  const WeightedAdapter one = make("one", 0.7, wanted), two = make("two", -1.5, wanted);
  const WeightedAdapter stacked{folder_ / "stacked", two.weight};
  convert_adapter(*layout_, two.folder, read_adapter_selection(*layout_, two.folder), AdapterFormat::kSharedOuter,
                  stacked.folder);
  merge_adapters(*layout_, {one, stacked}, CombineMethod::kCat, folder_ / "cat");
  expect_equal(products_in(folder_ / "cat"), sum_of({one, two}));
  for (const auto& [name, other] : {std::pair{"linear", two}, {"of_stacked", stacked}})
    merge_adapters(*layout_, {one, other}, CombineMethod::kLinear, folder_ / name);
  expect_equal(products_in(folder_ / "of_stacked"), products_in(folder_ / "linear"));
}

TEST_F(WeightedAdapters, OneIsScaled) {
  const WeightedAdapter one = make("one", -0.5, config(4, 3, {"q_proj"}, {"mlp.experts.down_proj"}));
  expect_equal(products(*open_factors(*layout_, {one})), sum_of({one}));
  merge_adapters(*layout_, {one}, CombineMethod::kCat, folder_ / "scaled");
  expect_equal(products_in(folder_ / "scaled"), sum_of({one}));
}

TEST_F(WeightedAdapters, WhatDoesNotBelongTogether) {
  const WeightedAdapter one = make("one", 1, config(4, 3, {"q_proj"}, {})),
                        other_rank = make("two", 1, config(3, 3, {"q_proj"}, {})),
                        other_base = make("three", 1, config(4, 3, {"q_proj"}, {}), "hub/other"),
                        same_base = make("four", 1, config(4, 3, {"q_proj"}, {}), "hub/base/");
  EXPECT_THAT(error_of([&] {
                merge_adapters(*layout_, {one, other_rank}, CombineMethod::kLinear, folder_ / "out");
              }),
              HasSubstr("has rank 3 for model.layers.0.self_attn.q_proj, but " + one.folder.string() + " has rank 4"));
  EXPECT_THAT(error_of([&] {
                read_selections(*layout_, {one, same_base, other_base});
              }),
              testing::AllOf(HasSubstr("three/adapter_config.json: is an adapter of 'hub/other', but "),
                             HasSubstr("one is one of 'models/base'")));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  merge_adapters(*layout_, {one, same_base}, CombineMethod::kLinear, folder_ / "out");
  EXPECT_THAT(error_of([&] { merge_adapters(*layout_, {one}, CombineMethod::kCat, folder_ / "out"); }),
              HasSubstr("is not empty"));
}

}  // namespace
}  // namespace moraine
