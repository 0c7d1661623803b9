#include "checkpoint/manifest.h"

#include <gmock/gmock.h>

#include <random>

#include "base/file.h"
#include "base/temp_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

void flip_bit(const fs::path& path, uint64_t bit) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(bit / 8));
  const char byte = static_cast<char>(file.get() ^ (1 << bit % 8));
  file.seekp(static_cast<std::streamoff>(bit / 8));
  file.put(byte);
}

struct Checkpoint {
  TempFolder temp;
  fs::path folder = temp.path() / "model", manifest = folder / kManifestName;
  Checkpoint() {
    fs::copy(fs::path(MORAINE_TESTS_DIR) / "golden" / "qwen3_moe-fp32" / "model", folder);
    write_manifest(folder, manifest, 2);
  }
  std::vector<std::string> differences() const {
    ManifestTotals totals;
    return check_manifest(folder, manifest, 2, totals);
  }
};

TEST(Manifest, FindsEveryOneOfAThousandFlippedBits) {
  const Checkpoint checkpoint;
  ASSERT_THAT(checkpoint.differences(), testing::IsEmpty());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(checkpoint.folder))
    if (entry.path() != checkpoint.manifest) files.push_back(entry.path());
  std::mt19937_64 random(5);
  for (int i = 0; i < 1000; ++i) {
    const fs::path& file = files[random() % files.size()];
    const uint64_t bit = random() % (fs::file_size(file) * 8);
    flip_bit(file, bit);
    EXPECT_THAT(checkpoint.differences(), testing::ElementsAre(testing::StartsWith(file.filename().string() + ": ")))
        << bit;
    flip_bit(file, bit);
  }
  EXPECT_THAT(checkpoint.differences(), testing::IsEmpty());
}

TEST(Manifest, NamesTheTensorTheHeaderAndMissingOrShortenedFiles) {
  const Checkpoint checkpoint;
  fs::path weights;
  for (const auto& entry : fs::directory_iterator(checkpoint.folder))
    if (entry.path().extension() == ".safetensors" && (weights.empty() || entry.path() < weights))
      weights = entry.path();
  flip_bit(weights, 8 * (fs::file_size(weights) - 1));
  flip_bit(weights, 8 * 20);
  EXPECT_THAT(checkpoint.differences(),
              testing::ElementsAre(testing::EndsWith(": tensor model.layers.0.mlp.experts.5.down_proj.weight differs"),
                                   testing::EndsWith(": the header differs")));
  fs::resize_file(weights, fs::file_size(weights) - 1);
  fs::remove(checkpoint.folder / "config.json");
  EXPECT_THAT(checkpoint.differences(),
              testing::ElementsAre("config.json: is missing", testing::HasSubstr(" bytes, not ")));
}

TEST(Manifest, RefusesWhatIsNone) {
  const Checkpoint checkpoint;
  write_file_atomic(checkpoint.manifest, "{\"format\": \"moraine hashes\", \"version\": 2}");
  EXPECT_THROW(checkpoint.differences(), Error);
  write_file_atomic(
      checkpoint.manifest,
      R"({"format": "moraine hashes", "version": 1, "files": [{"name": "../x", "size": 1, "tensors": false, "parts": []}]})");
  EXPECT_THROW(checkpoint.differences(), Error);
}

}  // namespace
}  // namespace moraine
