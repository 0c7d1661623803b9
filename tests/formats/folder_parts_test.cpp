#include "formats/folder_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temp_folder.h"
#include "formats/checkpoint_index.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

std::string error_finding(const fs::path& folder, FolderPart part) {
  return error_of([&] { find_in_folder(folder, part); });
}

TEST(FolderParts, AreFound) {
  TempFolder folder;
  folder.write("config.json", "{}");
  EXPECT_EQ(find_in_folder(folder.path(), FolderPart::kConfig), folder / "config.json");
  EXPECT_THAT(error_finding(folder / "config.json", FolderPart::kConfig), HasSubstr("is a file, not a folder"));
  EXPECT_THAT(error_finding(folder.path(), FolderPart::kTokenizer), testing::EndsWith(": holds no tokenizer.json"));
}

TEST(FolderParts, NamesOfTheHubAreNoFolders) {
  EXPECT_THAT(
      error_finding("Qwen/Qwen3-30B-A3B", FolderPart::kConfig),
      AllOf(HasSubstr("Qwen/Qwen3-30B-A3B: no such folder"), HasSubstr("hf download Qwen/Qwen3-30B-A3B --local-dir")));
  EXPECT_THAT(error_of([] { read_checkpoint_index("Qwen/Qwen3-30B-A3B"); }), HasSubstr("hf download"));
  for (const char* path : {"./models/none", "/models/none", "none", "a/b/c", "configs/none.json"})
    EXPECT_THAT(error_finding(path, FolderPart::kConfig), testing::EndsWith(": no such folder"));
}

TEST(FolderParts, SnapshotsOfTheHubsCacheAreNamed) {
  TempFolder folder;
  folder.write("models--a--b/snapshots/0aaa/config.json", "{}");
  folder.write("models--a--b/snapshots/1bbb/config.json", "{}");
  folder.write("models--a--b/refs/main", "1bbb");
  const fs::path cached = folder / "models--a--b";
  const std::string snapshot = (cached / "snapshots/1bbb").string();
  for (FolderPart part : {FolderPart::kConfig, FolderPart::kTokenizer, FolderPart::kAdapterConfig})
    EXPECT_THAT(error_finding(cached, part), AllOf(HasSubstr("Hub's cache"), HasSubstr(snapshot)));
  EXPECT_THAT(error_of([&] { read_checkpoint_index(cached); }), HasSubstr(snapshot));
  fs::remove(cached / "refs/main");
  EXPECT_THAT(error_finding(cached, FolderPart::kConfig), HasSubstr("snapshots/0aaa"));
  fs::create_directories(folder / "empty/snapshots");
  fs::create_directories(folder / "empty/refs");
  EXPECT_THAT(error_finding(folder / "empty", FolderPart::kConfig), HasSubstr("snapshots/ is empty"));
}

// A file of each format and what is said of it.
TEST(FolderParts, OtherFormatsAreNamed) {
  struct Case {
    FolderPart part;
    const char *file, *words;
  };
  const Case cases[] = {{FolderPart::kAdapterWeights, "adapter_model.bin", "pickled weights are not read"},
                        {FolderPart::kAdapterWeights, "adapter.pt", "pickled weights are not read"},
                        {FolderPart::kAdapterWeights, "adapter.gguf", "GGUF"},
                        {FolderPart::kAdapterWeights, "adapter_model-00001-of-00002.safetensors", "from that one file"},
                        {FolderPart::kAdapterConfig, "adapter/adapter_config.json", "adapter holds one"},
                        {FolderPart::kAdapterConfig, "adapters.npz", "a PEFT adapter is"},
                        {FolderPart::kConfig, "model.gguf", "GGUF"},
                        {FolderPart::kConfig, "params.json", "the release for transformers"},
                        {FolderPart::kConfig, "checkpoint-100/config.json", "checkpoint-100 holds one"},
                        {FolderPart::kTokenizer, "tokenizer.model", "transformers writes tokenizer.json"},
                        {FolderPart::kTokenizer, "vocab.json", "transformers writes tokenizer.json"}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.file);
    TempFolder folder;
    folder.write(c.file, "{}");
    EXPECT_THAT(error_finding(folder.path(), c.part), HasSubstr(c.words));
  }
  const std::pair<const char*, const char*> weights[] = {
      {"pytorch_model-00001-of-00002.bin", "pickled weights"},
      {"consolidated.00.pth", "pickled weights"},
      {"model-q4.gguf", "GGUF"},
      {"model-00001-of-00002.safetensors", "model.safetensors.index.json too"}};
  for (const auto& [file, words] : weights) {
    SCOPED_TRACE(file);
    TempFolder folder;
    folder.write(file, "x");
    EXPECT_THAT(error_of([&] { read_checkpoint_index(folder.path()); }),
                AllOf(HasSubstr("holds neither"), HasSubstr(words)));
  }
}

TEST(FolderParts, LfsPointersAndBrokenLinksAreNamed) {
  TempFolder folder;
  folder.write("adapter_model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 8\n");
  EXPECT_THAT(error_finding(folder.path(), FolderPart::kAdapterWeights), HasSubstr("git lfs pull"));
  fs::create_symlink("config.json", folder / "config.json");
  EXPECT_THAT(error_finding(folder.path(), FolderPart::kConfig),
              HasSubstr("config.json: cannot open: Too many levels of symbolic links"));
  fs::create_symlink("model.safetensors", folder / "model.safetensors");
  EXPECT_THAT(error_of([&] { read_checkpoint_index(folder.path()); }), HasSubstr("Too many levels of symbolic links"));
}

}  // namespace
}  // namespace moraine
