#include "formats/tensorboard_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "base/temp_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// Step 7 with train/loss 1.5 and train/learning_rate 1e-4, without its time: what tensorboard 2.21's own classes make
// of it.
const std::string kScalars =
    from_hex("10072a2f0a110a0a747261696e2f6c6f7373150000c03f0a1a0a13747261696e2f6c6561726e696e675f726174651517b7d138");

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> files_in(const fs::path& folder) {
  return {fs::directory_iterator(folder), fs::directory_iterator()};
}

// The events of a file, each without its time (a tag byte and eight bytes); checks the frames.
std::vector<std::string> events_in(const std::string& file) {
  std::vector<std::string> events;
  for (size_t at = 0; at < file.size();) {
    uint64_t length = 0;
    std::memcpy(&length, file.data() + at, sizeof length);
    const std::string event = file.substr(at + 12, length);
    EXPECT_EQ(file.substr(at, 16 + length), tfrecord(event));
    EXPECT_EQ(event[0], '\x09');
    events.push_back(event.substr(9));
    at += 16 + length;
  }
  return events;
}

TEST(TensorboardEvents, ChecksumIsCrc32c) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);            // the check value that catalogues of CRCs list
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(""), 0u);
}

TEST(TensorboardEvents, RecordsAreTensorboards) {
  const std::string event = from_hex("0900001040fc54d941") + kScalars;
  EXPECT_EQ(tfrecord(event), from_hex("3c00000000000000c8b7a352") + event + from_hex("4df4734d"));
}

TEST(TensorboardEvents, AFileSaysItsVersionWhereItBeginsAndItsScalars) {
  const TempFolder folder;
  const fs::path logs = folder / "run" / "tensorboard";
  TensorboardEvents writer(logs, 7);
  writer.add_scalars(7, {{"train/loss", 1.5}, {"train/learning_rate", 1e-4}});
  ASSERT_EQ(files_in(logs).size(), 1u);
  EXPECT_THAT(files_in(logs)[0].filename().string(), testing::StartsWith("events.out.tfevents."));
  // While the writer is open: every call is flushed.
  const std::vector<std::string> events = events_in(read(files_in(logs)[0]));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0],
            "\x1a\x0d"
            "brain.Event:2");
  EXPECT_EQ(events[1],
            "\x10\x07"
            "\x3a\x02\x08\x01");  // step 7, a session starts
  EXPECT_EQ(events[2], kScalars);
}

TEST(TensorboardEvents, EachRunHasAFileOfItsOwn) {
  const TempFolder folder;
  { const TensorboardEvents first(folder.path(), 0); }
  { const TensorboardEvents second(folder.path(), 3); }
  EXPECT_EQ(files_in(folder.path()).size(), 2u);
}

TEST(TensorboardEvents, AFolderThatCannotBeMadeIsNamed) {
  const TempFolder folder;
  folder.write("taken", "a file");
  EXPECT_THAT(error_of([&] { TensorboardEvents(folder / "taken" / "tensorboard", 0); }), HasSubstr("taken"));
}

}  // namespace
}  // namespace moraine
