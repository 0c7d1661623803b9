// Adapters of gpt-oss, whose experts transformers holds as [in, out] with gate and up alternating.
#include <gmock/gmock.h>

#include "adapter/convert_adapter.h"
#include "adapter/open_adapter.h"
#include "adapter/server_layouts.h"
#include "base/error.h"
#include "base/temp_folder.h"
#include "checkpoint/tensor_file.h"
#include "config/hf_config.h"
#include "formats/safetensors.h"
#include "golden.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class Interleaved : public testing::Test {
 protected:
  const fs::path golden_ = golden_folder("gpt_oss-fp32"), adapter_ = golden_ / "lora" / "adapter";
  const std::unique_ptr<ModelLayout> layout_ = make_layout(HfConfig::read(golden_ / "model"));
  TempFolder folder_;

  void convert(const fs::path& from, AdapterFormat format, const fs::path& to) {
    convert_adapter(*layout_, from, read_adapter_selection(*layout_, from), format, to);
  }
  void expect_same_tensors(const fs::path& folder) {
    const SafetensorsHeader wanted = read_safetensors_header(adapter_ / "adapter_model.safetensors"),
                            found = read_safetensors_header(folder / "adapter_model.safetensors");
    ASSERT_EQ(found.entries.size(), wanted.entries.size());
    for (const SafetensorsEntry& entry : wanted.entries) {
      ASSERT_TRUE(found.find(entry.name)) << entry.name;
      EXPECT_TRUE(at::equal(read_tensor(found, *found.find(entry.name)), read_tensor(wanted, entry))) << entry.name;
    }
  }
};

TEST_F(Interleaved, BothLayoutsOfPeftAreOne) {
  convert(adapter_, AdapterFormat::kPeft, folder_ / "peft");
  expect_same_tensors(folder_ / "peft");
  convert(adapter_, AdapterFormat::kPeft0190, folder_ / "older");
  expect_same_tensors(folder_ / "older");
  convert(folder_ / "older", AdapterFormat::kPeft, folder_ / "back");
  expect_same_tensors(folder_ / "back");
}

TEST_F(Interleaved, NoLayoutHasAModuleForEachExpert) {
  const AdapterSelection selection = read_adapter_selection(*layout_, adapter_);
  for (const SaveLayout wanted : {SaveLayout::kPerExpert, SaveLayout::kSharedOuter}) {
    try {
      choose_layout(wanted, "gpt-oss", *layout_, "save.layouts", selection);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("there is no layout with a module for each expert"));
    }
  }
  EXPECT_THROW(convert(adapter_, AdapterFormat::kPerExpert, folder_ / "out"), Error);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

}  // namespace
}  // namespace moraine
