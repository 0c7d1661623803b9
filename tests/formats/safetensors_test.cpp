#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temp_folder.h"
#include "formats/crafted.h"

namespace moraine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(DType, NamesAndBits) {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    DType dtype = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(parse_dtype("bf16"), std::nullopt);
  EXPECT_EQ(dtype_bits(DType::kBF16), 16);
  EXPECT_EQ(dtype_bits(DType::kF4), 4);
  EXPECT_EQ(dtype_name(DType::kF8E4M3), "F8_E4M3");
  EXPECT_EQ(dtype_bits(DType::kI64), 64);
  EXPECT_EQ(dtype_bits(DType::kBool), 8);
}

TEST(TensorBytes, IsChecked) {
  auto bytes = [](DType dtype, std::vector<int64_t> shape) { return tensor_bytes(dtype, shape); };
  constexpr int64_t kHuge = int64_t{1} << 62;
  EXPECT_EQ(bytes(DType::kF32, {}), 4u);
  EXPECT_EQ(bytes(DType::kBF16, {3, 5}), 30u);
  EXPECT_EQ(bytes(DType::kF4, {3, 2}), 3u);
  EXPECT_EQ(bytes(DType::kF4, {3}), std::nullopt);
  EXPECT_EQ(bytes(DType::kF4, {0, 3}), 0u);
  EXPECT_EQ(bytes(DType::kF32, {0, 7}), 0u);
  EXPECT_EQ(bytes(DType::kF32, {-1}), std::nullopt);
  EXPECT_EQ(bytes(DType::kF32, {kHuge, 4}), std::nullopt);    // the count wraps to 0
  EXPECT_EQ(bytes(DType::kF32, {kHuge}), std::nullopt);       // the bits wrap to 0
  EXPECT_EQ(bytes(DType::kU8, {0, kHuge, 4}), std::nullopt);  // 0 hides nothing, first
  EXPECT_EQ(bytes(DType::kU8, {kHuge, 4, 0}), std::nullopt);  // … or last
}

TEST(Safetensors, WritesWhatItReads) {
  TempFolder folder;
  std::string first(24, 'a'), second(6, 'b'), third(1, 'c');
  write_safetensors(folder / "x.safetensors",
                    {{"b", DType::kBF16, {3}, bytes_of(second)},
                     {"z\"\n é", DType::kF32, {2, 3}, bytes_of(first)},
                     {"a", DType::kBF16, {0, 4}, {}},
                     {"c", DType::kF4, {2}, bytes_of(third)}},
                    {{"format", "pt"}});
  SafetensorsHeader header = read_safetensors_header(folder / "x.safetensors");
  EXPECT_EQ(header.data_offset % 8, 0u);
  EXPECT_EQ(header.file_size, header.data_offset + 31);
  EXPECT_THAT(header.metadata, ElementsAre(std::pair<const std::string, std::string>("format", "pt")));
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : header.entries) names.push_back(entry.name);
  EXPECT_THAT(names, ElementsAre("z\"\n é", "a", "b", "c"));  // widest dtype first, as the reference writer sorts
  const SafetensorsEntry* b = header.find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->offset, header.data_offset + 24);
  EXPECT_EQ(b->nbytes, 6u);
  EXPECT_EQ(b->shape, std::vector<int64_t>{3});
  std::string read(6, ' ');
  File(folder / "x.safetensors").read_exact(std::as_writable_bytes(std::span(read)), b->offset);
  EXPECT_EQ(read, second);
  EXPECT_EQ(header.find("none"), nullptr);
}

TEST(Safetensors, WritesAnEmptyFile) {
  TempFolder folder;
  write_safetensors(folder / "x", {});
  EXPECT_EQ(read_text_file(folder / "x"), length_bytes(8) + "{}      ");
  EXPECT_TRUE(read_safetensors_header(folder / "x").entries.empty());
}

TEST(SafetensorsStream, ShowsNothingBeforeFinish) {
  TempFolder folder;
  {
    SafetensorsStream stream(folder / "x", {{"a", DType::kU8, {4}}});
    stream.append(bytes_of("12"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  SafetensorsStream stream(folder / "x", {{"b", DType::kU8, {4}}, {"a", DType::kU8, {1}}});  // in the declared order
  stream.append(bytes_of("12"));
  stream.append(bytes_of("345"));
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
  stream.finish();
  SafetensorsHeader header = read_safetensors_header(folder / "x");
  EXPECT_EQ(header.entries[0].name, "b");
  EXPECT_TRUE(read_text_file(folder / "x").ends_with("12345"));
}

TEST(SafetensorsStreamDeathTest, AssertsTheDeclaredBytes) {
  TempFolder folder;
  SafetensorsStream stream(folder / "x", {{"a", DType::kU8, {4}}});
  EXPECT_DEATH(stream.finish(), "fewer bytes");
  EXPECT_DEATH(stream.append(bytes_of("12345")), "more bytes");
}

TEST(Safetensors, ReadsTheGoldenFiles) {
  SafetensorsHeader header = read_safetensors_header(std::filesystem::path(MORAINE_TESTS_DIR) /
                                                     "golden/qwen3_moe-fp32/lora/adapter/adapter_model.safetensors");
  EXPECT_FALSE(header.entries.empty());
  for (const SafetensorsEntry& entry : header.entries) EXPECT_EQ(entry.dtype, DType::kF32);
}

}  // namespace
}  // namespace moraine
