#include "formats/checkpoint_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/temp_folder.h"
#include "formats/crafted.h"

namespace moraine {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class CheckpointIndexTest : public testing::Test {
 protected:
  // A file of two U8 tensors, four bytes each.
  void write_file(const std::string& file, const std::string& first, const std::string& second) {
    folder_.write(file, safetensors_file("{" + header_entry(first, "U8", "[4]", 0, 4) + "," +
                                             header_entry(second, "U8", "[4]", 4, 8) + "}",
                                         8));
  }
  void write_index(const std::string& weight_map) {
    folder_.write("model.safetensors.index.json",
                  "{\"metadata\":{\"total_size\":16},\"weight_map\":" + weight_map + "}");
  }
  std::string error() {
    return error_of([&] { read_checkpoint_index(folder_.path()); });
  }
  TempFolder folder_;
};

TEST_F(CheckpointIndexTest, ReadsASingleFile) {
  write_file("model.safetensors", "a", "b");
  CheckpointIndex index = read_checkpoint_index(folder_.path());
  EXPECT_EQ(index.files.size(), 1u);
  EXPECT_EQ(index.total_bytes(), 8u);
  ASSERT_NE(index.find("b"), nullptr);
  EXPECT_EQ(index.find("b")->entry.offset, index.files[0].data_offset + 4);
  EXPECT_EQ(index.find("c"), nullptr);
}

TEST_F(CheckpointIndexTest, ReadsManyFiles) {
  write_file("m-2.safetensors", "a", "b");
  write_file("sub/m-1.safetensors", "c", "unlisted");
  write_index(R"({"c":"./sub/m-1.safetensors","a":"m-2.safetensors","b":"m-2.safetensors"})");
  CheckpointIndex index = read_checkpoint_index(folder_.path());
  ASSERT_EQ(index.files.size(), 2u);
  EXPECT_EQ(index.tensors.size(), 3u);  // the index decides
  EXPECT_EQ(index.files[static_cast<size_t>(index.find("a")->file)].path, folder_ / "m-2.safetensors");
  EXPECT_EQ(index.files[static_cast<size_t>(index.find("c")->file)].path, folder_ / "sub/m-1.safetensors");
}

TEST_F(CheckpointIndexTest, NamesMissingFiles) {
  EXPECT_THAT(error(), HasSubstr("holds neither model.safetensors nor model.safetensors.index.json"));
  folder_.write("pytorch_model.bin", "");
  EXPECT_THAT(error(), HasSubstr("convert them to safetensors"));
  EXPECT_THAT(error_of([&] { read_checkpoint_index(folder_ / "none"); }), HasSubstr("none: no such folder"));
  write_index(R"({"a":"m-1.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("m-1.safetensors: the file is missing"));
}

TEST_F(CheckpointIndexTest, NamesACutFile) {
  write_file("m-1.safetensors", "a", "b");
  write_index(R"({"a":"m-1.safetensors","b":"m-1.safetensors"})");
  std::filesystem::resize_file(folder_ / "m-1.safetensors",
                               std::filesystem::file_size(folder_ / "m-1.safetensors") - 1);
  EXPECT_THAT(error(), AllOf(HasSubstr("m-1.safetensors: tensor 'b' ends at byte 8"), HasSubstr("cut short")));
}

TEST_F(CheckpointIndexTest, NamesATensorThatItsFileLacks) {
  write_file("m-1.safetensors", "a", "b");
  write_file("m-2.safetensors", "c", "d");
  write_index(R"({"a":"m-1.safetensors","x":"m-2.safetensors"})");
  EXPECT_THAT(error(), HasSubstr("m-2.safetensors: has no tensor 'x'"));
  write_index(R"({"a":"m-2.safetensors","c":"m-2.safetensors","b":"m-1.safetensors"})");  // it is in the other file
  EXPECT_THAT(error(), HasSubstr("m-2.safetensors: has no tensor 'a'"));
}

TEST_F(CheckpointIndexTest, RefusesATensorInTwoFiles) {
  write_file("m-1.safetensors", "a", "b");
  write_file("m-2.safetensors", "c", "b");
  write_index(R"({"a":"m-1.safetensors","c":"m-2.safetensors"})");  // b is not even listed
  EXPECT_THAT(error(), HasSubstr("m-2.safetensors: tensor 'b' lies in m-1.safetensors too"));
}

TEST_F(CheckpointIndexTest, RefusesPathsThatLeaveTheFolder) {
  TempFolder outside;
  std::filesystem::path secret =
      outside.write("secret.safetensors", safetensors_file("{" + header_entry("a", "U8", "[1]", 0, 1) + "}", 1));
  std::string up = std::filesystem::relative(secret, folder_.path()).string();
  for (std::string name : {up, secret.string(), std::string("sub/../../x"), std::string(".."), std::string(""),
                           std::string("m.safetensors\\u0000"), std::string("a\\nb")}) {
    write_index("{\"a\":\"" + name + "\"}");
    EXPECT_THAT(error(), HasSubstr("the file of tensor 'a' lies outside the folder")) << name;
  }
  write_index(R"({"a":"."})");
  EXPECT_THAT(error(), HasSubstr("it is a folder"));
}

TEST_F(CheckpointIndexTest, RefusesABrokenIndex) {
  auto index_error = [&](const std::string& text) {
    folder_.write("model.safetensors.index.json", text);
    std::string line = error();
    EXPECT_THAT(line, HasSubstr("model.safetensors.index.json: "));
    return line;
  };
  EXPECT_THAT(index_error("{}"), HasSubstr("has no 'weight_map' object"));
  EXPECT_THAT(index_error("[]"), HasSubstr("has no 'weight_map' object"));
  EXPECT_THAT(index_error(R"({"weight_map":["a"]})"), HasSubstr("has no 'weight_map' object"));
  EXPECT_THAT(index_error(R"({"weight_map":{}})"), HasSubstr("names no tensor"));
  EXPECT_THAT(index_error(R"({"weight_map":{"a":1}})"), HasSubstr("weight_map: 'a' does not name a file"));
  EXPECT_THAT(index_error(R"({"weight_map":{"a":"x","a":"y"}})"), HasSubstr("key 'a' is given twice"));
  EXPECT_THAT(index_error(R"({"weight_map":{"a":"x")"), HasSubstr("malformed JSON"));
  EXPECT_THAT(index_error(std::string(1'000'000, '[')), HasSubstr("nested deeper"));
}

TEST_F(CheckpointIndexTest, ReadsTheGoldenCheckpoint) {
  CheckpointIndex index =
      read_checkpoint_index(std::filesystem::path(MORAINE_TESTS_DIR) / "golden/qwen3_moe-fp32/model");
  EXPECT_NE(index.find("model.embed_tokens.weight"), nullptr);
}

}  // namespace
}  // namespace moraine
