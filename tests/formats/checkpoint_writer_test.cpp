// Checkpoints that are streamed: every element where it belongs, whatever the threads, buffers and files.
#include "formats/checkpoint_writer.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstring>

#include "base/error.h"
#include "base/temp_folder.h"
#include "formats/checkpoint_index.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

// Element i of tensor t is this number, in as many bytes as the element has.
uint64_t value_of(size_t tensor, uint64_t i) { return i * 2654435761u + tensor * 97 + i / 251; }

FillElements fill_with_values(const NewCheckpoint& checkpoint) {
  return [&checkpoint](size_t t, uint64_t first, uint64_t count, std::byte* into) {
    const NewTensor& tensor = checkpoint.tensors[t];
    const uint64_t size = dtype_bits(tensor.declared.dtype) / 8;
    EXPECT_EQ(first % tensor.unit, 0);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t value = value_of(t, first + i);
      std::memcpy(into + i * size, &value, size);
    }
  };
}

void expect_values(const NewCheckpoint& checkpoint, const fs::path& folder) {
  const CheckpointIndex index = read_checkpoint_index(folder);
  EXPECT_EQ(index.tensors.size(), checkpoint.tensors.size());
  for (size_t t = 0; t < checkpoint.tensors.size(); ++t) {
    const auto& declared = checkpoint.tensors[t].declared;
    const CheckpointTensor* tensor = index.find(declared.name);
    ASSERT_TRUE(tensor) << declared.name;
    EXPECT_EQ(tensor->entry.dtype, declared.dtype);
    EXPECT_EQ(tensor->entry.shape, declared.shape);
    std::vector<std::byte> bytes(tensor->entry.nbytes);
    File(index.files[tensor->file].path).read_exact(bytes, tensor->entry.offset);
    const uint64_t size = dtype_bits(declared.dtype) / 8;
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < bytes.size() / size; ++i) {
      const uint64_t value = value_of(t, i);
      wrong += std::memcmp(&bytes[i * size], &value, size) != 0;
    }
    EXPECT_EQ(wrong, 0) << declared.name;
  }
}

TEST(CheckpointWriter, WritesEveryElementOfLargeAndSmallTensors) {
  TempFolder folder;
  // More than a buffer, a unit of more than a piece, a unit that divides nothing, a number alone, nothing.
  const NewCheckpoint checkpoint{{{{"large", DType::kU8, {7, 10'000'019}}},
                                  {{"wide_unit", DType::kBF16, {3, 3'000'000}}, 3'000'000},
                                  {{"odd_unit", DType::kF32, {2'000'003}}, 17},
                                  {{"alone", DType::kI64, {}}},
                                  {{"empty", DType::kF32, {0, 4}}, 4}},
                                 5'000'000'000,
                                 3};
  const size_t files =
      write_checkpoint(folder / "out", checkpoint, fill_with_values(checkpoint), 0, [](const fs::path&) {});
  EXPECT_EQ(files, 1);
  EXPECT_TRUE(fs::exists(folder / "out" / "model.safetensors"));
  expect_values(checkpoint, folder / "out");
}

TEST(CheckpointWriter, SplitsIntoFiles) {
  TempFolder folder;
  NewCheckpoint checkpoint{{}, 1000, 2};
  for (int i = 0; i < 7; ++i)
    checkpoint.tensors.push_back({{"t" + std::to_string(i), i % 2 ? DType::kF32 : DType::kU8, {100 + i}}});
  checkpoint.tensors.push_back({{"larger than a file", DType::kF32, {600}}});
  const size_t files =
      write_checkpoint(folder / "out", checkpoint, fill_with_values(checkpoint), 0,
                       [](const fs::path& temporary) { write_file_atomic(temporary / "config.json", "{}"); });
  EXPECT_EQ(files, 4);
  EXPECT_TRUE(fs::exists(folder / "out" / "model-00004-of-00004.safetensors"));
  EXPECT_TRUE(fs::exists(folder / "out" / "config.json"));
  expect_values(checkpoint, folder / "out");
}

TEST(CheckpointWriter, IsWholeOrNotThere) {
  TempFolder folder;
  NewCheckpoint checkpoint{{{{"a", DType::kU8, {100'000'000}}}}, 5'000'000'000, 2};
  std::atomic<int> filled{0};
  const auto failing = [&](size_t, uint64_t, uint64_t, std::byte*) {
    if (++filled > 80) throw run_error("tensor", "no more");
  };
  EXPECT_THROW(write_checkpoint(folder / "out", checkpoint, failing, 0, [](const fs::path&) {}), Error);
  EXPECT_TRUE(fs::is_empty(folder.path()));

  checkpoint.tensors[0].declared.shape = {8};
  const auto fails_later = [](const fs::path&) { throw run_error("config.json", "no"); };
  EXPECT_THROW(write_checkpoint(folder / "out", checkpoint, fill_with_values(checkpoint), 0, fails_later), Error);
  EXPECT_TRUE(fs::is_empty(folder.path()));

  folder.write("used/notes.txt", "mine");
  EXPECT_THROW(write_checkpoint(folder / "used", checkpoint, fill_with_values(checkpoint), 0, [](const fs::path&) {}),
               Error);
  checkpoint.tensors[0].declared.shape = {int64_t{1} << 60};
  try {
    write_checkpoint(folder / "out", checkpoint, fill_with_values(checkpoint), 0, [](const fs::path&) {});
    FAIL() << "an exabyte fits";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("are needed, the disk has"));
  }
  EXPECT_FALSE(fs::exists(folder / "out"));
}

}  // namespace
}  // namespace moraine
