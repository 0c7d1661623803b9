#include "checkpoint/opened_checkpoint.h"

#include <gmock/gmock.h>

#include "base/temp_folder.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(OpenedCheckpoint, HeadersAreTheSameAsTextAndBack) {
  for (const char* name : {"qwen3_moe-bf16", "deepseek_v4-fp8fp4"}) {
    const CheckpointHeaders headers = open_checkpoint(golden_folder(name) / "model", DtypeChoice::kAuto).headers;
    const CheckpointHeaders back = headers_from_text(headers_to_text(headers));
    EXPECT_EQ(fingerprint(back), fingerprint(headers));
    EXPECT_EQ(back.index.tensors.size(), headers.index.tensors.size());
    EXPECT_EQ(back.config.where(), headers.config.where());
  }
}

TEST(OpenedCheckpoint, WithoutFilesTheHubsAreAssumed) {
  const fs::path config = golden_folder("qwen3_moe-bf16") / "model" / "config.json";
  const OpenedCheckpoint assumed = open_or_assume_checkpoint(config, DtypeChoice::kAuto, BaseFormat::kStored);
  const OpenedCheckpoint opened =
      open_or_assume_checkpoint(config.parent_path(), DtypeChoice::kAuto, BaseFormat::kStored);
  EXPECT_FALSE(assumed.has_weights);
  EXPECT_TRUE(opened.has_weights);
  EXPECT_EQ(assumed.headers.index.total_bytes(), opened.headers.index.total_bytes());
  EXPECT_EQ(assumed.specs.size(), opened.specs.size());
  EXPECT_EQ(opened.specs[experts_image(1)].name, "layers.1.experts");
  EXPECT_THROW(open_checkpoint(config, DtypeChoice::kAuto), Error);
}

TEST(OpenedCheckpoint, AnotherKindOfModelIsTheFirstThingToHearOf) {
  const TempFolder folder;
  folder.write("config.json", R"({"architectures": ["LlamaForCausalLM"]})");
  folder.write("model.safetensors", "no safetensors file");
  EXPECT_THAT(error_of([&] { open_checkpoint(folder.path(), DtypeChoice::kAuto); }),
              HasSubstr("LlamaForCausalLM is not supported"));
}

}  // namespace
}  // namespace moraine
