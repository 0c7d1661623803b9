// Real-size configurations, without any weights.
#include <gmock/gmock.h>

#include "checkpoint/check_checkpoint.h"
#include "checkpoint/plan.h"
#include "models/golden_headers.h"
#include "models/param_specs.h"

namespace moraine {
namespace {

using namespace testing_support;

struct Expected {
  const char* name;
  double gigabytes;  // as released, multi-token prediction and vision tower left out
  double billion_parameters;
  size_t tensors;  // DeepSeek-V4-Flash as released: 69,187, of which 1,575 are multi-token prediction
};

class HubConfig : public testing::TestWithParam<Expected> {};
INSTANTIATE_TEST_SUITE_P(, HubConfig,
                         testing::Values(Expected{"Qwen3-30B-A3B", 61.06, 30.53, 18867},
                                         Expected{"Qwen3.5-35B-A3B", 69.3, 34.66, 693},
                                         Expected{"Qwen3.8-2.4T-A95B", 4840, 2420, 1590},
                                         Expected{"DeepSeek-V4-Flash", 156, 284, 69187 - 1575},
                                         Expected{"DeepSeek-V3", 673.2, 671.03, 91991 - 1564}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
                           return name;
                         });

TEST_P(HubConfig, HasTheSizeOfTheRelease) {
  const auto layout = make_layout(hub_config(GetParam().name));
  const auto specs = image_specs(*layout, no_checkpoint());
  const CheckpointIndex index = assumed_index(specs);
  EXPECT_TRUE(check_checkpoint(specs, index, [](const std::string&) { return std::nullopt; }).empty());
  EXPECT_NEAR(index.total_bytes() / 1e9, GetParam().gigabytes, 0.01 * GetParam().gigabytes);
  EXPECT_EQ(index.tensors.size(), GetParam().tensors);
  uint64_t parameters = 0;
  for (const ImageSpec& image : specs)
    for (const ParamSpec& param : image.params) parameters += count_parameters(param);
  EXPECT_NEAR(parameters / 1e9, GetParam().billion_parameters, 0.005 * GetParam().billion_parameters);
}

// Whatever the mesh, the ranks of a replica read every byte of the checkpoint once.
TEST_P(HubConfig, IsReadOnceByAThousandRanks) {
  const auto layout = make_layout(hub_config(GetParam().name));
  const auto specs = image_specs(*layout, no_checkpoint());
  const CheckpointIndex index = assumed_index(specs);
  for (const int64_t ep : {1, 8}) {
    const Placement placement(specs, layout->shape().num_experts, Mesh::make(1024, {.ep = ep}));
    uint64_t bytes = 0;
    for (int64_t rank = 0; rank < 1024; ++rank) bytes += plan_reads(placement.shards_of(rank), index).read_bytes;
    EXPECT_EQ(bytes, index.total_bytes()) << "ep " << ep;
  }
}

}  // namespace
}  // namespace moraine
