// Files of tensors written piece by piece: what is read back, whatever the pieces, and the hash of it.
#include "checkpoint/tensor_file.h"

#include <gmock/gmock.h>

#include "base/temp_folder.h"

namespace moraine {
namespace {

TEST(TensorFile, IsWhatWasAppendedHoweverItIsCut) {
  const TempFolder folder;
  const std::filesystem::path path = folder / "adapter_model.safetensors";
  const at::Tensor small = at::randn({3, 7}), large = at::randn({5, 400000}), last = at::randn({1, 2});  // 8 MB
  const std::vector<TensorFileWriter::Declared> declared{{"small", {3, 7}}, {"large", {5, 400000}}, {"last", {1, 2}}};
  for (const bool with_hash : {true, false}) {
    TensorFileWriter file(path, declared);
    file.append(small);
    file.append_rows(large.narrow(0, 0, 2));
    file.append_rows(large.narrow(0, 2, 3));
    file.append(last);
    const std::string hash = file.finish(with_hash);
    EXPECT_EQ(hash, with_hash ? hash_file(File(path)) : "");
    const SafetensorsHeader header = read_safetensors_header(path);
    ASSERT_EQ(header.entries.size(), 3u);
    for (const auto& [name, values] : {std::pair{"small", small}, {"large", large}, {"last", last}})
      EXPECT_TRUE(at::equal(read_tensor(header, *header.find(name)), values)) << name;
  }
}

// Without finish() nothing is there, though buffers were written.
TEST(TensorFile, IsNotThereBeforeItIsWhole) {
  const TempFolder folder;
  {
    TensorFileWriter file(folder / "adapter_model.safetensors", {{"large", {5, 400000}}, {"last", {1, 2}}});
    file.append(at::randn({5, 400000}));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace moraine
