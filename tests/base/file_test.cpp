#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/temp_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Names in a folder, hidden ones too.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(File, ReadsByteRanges) {
  TempFolder folder;
  File file(folder.write("a", "0123456789"));
  EXPECT_EQ(file.size(), 10u);
  std::string middle(4, ' ');
  file.read_exact(std::as_writable_bytes(std::span(middle)), 3);
  EXPECT_EQ(middle, "3456");
  file.read_exact({}, 10);  // nothing, at the end
  File moved = std::move(file);
  moved.read_exact(std::as_writable_bytes(std::span(middle)), 0);
  EXPECT_EQ(middle, "0123");
}

TEST(File, NamesTheFileThatIsCutShort) {
  TempFolder folder;
  File file(folder.write("short.bin", "0123456789"));
  std::string into(4, ' ');
  std::string error = error_of([&] { file.read_exact(std::as_writable_bytes(std::span(into)), 8); });
  EXPECT_THAT(error, HasSubstr("short.bin: ends at byte 10, where bytes 8 to 12 were expected"));
}

TEST(File, RefusesWhatIsNoRegularFile) {
  TempFolder folder;
  EXPECT_THAT(error_of([&] { File file(folder / "none"); }), HasSubstr("none: cannot open: No such file or directory"));
  EXPECT_THAT(error_of([&] { File file(folder.path()); }), HasSubstr("it is a folder"));
  fs::path pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { File file(pipe); }), HasSubstr("not a regular file"));
}

TEST(File, ReadTextFileHasALimit) {
  TempFolder folder;
  fs::path path = folder.write("text", "hello");
  EXPECT_EQ(read_text_file(path), "hello");
  EXPECT_EQ(read_text_file(path, 5), "hello");
  EXPECT_THAT(error_of([&] { read_text_file(path, 4); }), HasSubstr("is 5 B long, at most 4 B are read"));
}

TEST(AtomicFile, WritesAndReplaces) {
  TempFolder folder;
  fs::path path = folder / "out";
  write_file_atomic(path, "one");
  write_file_atomic(path, "two");
  EXPECT_EQ(read_text_file(path), "two");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(AtomicFile, LeavesNothingWhenItIsNotCommitted) {
  TempFolder folder;
  write_file_atomic(folder / "out", "old");
  {
    AtomicFile file(folder / "out");
    file.append(std::as_bytes(std::span("new", 3)));
  }
  EXPECT_EQ(read_text_file(folder / "out"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(AtomicFile, NamesThePathThatCannotBeWritten) {
  TempFolder folder;
  std::string error = error_of([&] { write_file_atomic(folder / "none/out", "x"); });
  EXPECT_THAT(error, HasSubstr("none/out: cannot write: No such file or directory"));
  // A folder is in the way: the rename fails, and the temporary file goes.
  fs::create_directory(folder / "taken");
  EXPECT_THAT(error_of([&] { write_file_atomic(folder / "taken", "x"); }), HasSubstr("taken: cannot write:"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"taken"});
}

TEST(AtomicFile, ReplacesNeitherLinksNorDevices) {
  TempFolder folder;
  folder.write("target", "old");
  fs::create_symlink("target", folder / "link");
  write_file_atomic(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_text_file(folder / "target"), "new");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { write_file_atomic(folder / "pipe", "x"); }),
              HasSubstr("pipe: cannot write: it is no regular file"));
  EXPECT_TRUE(fs::is_fifo(folder / "pipe"));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"link", "pipe", "target"}));
}

TEST(AtomicFolder, WritesAndReplaces) {
  TempFolder folder;
  fs::path path = folder / "parent/adapter/";  // as a user may write it
  write_folder_atomic(path, [](const fs::path& temporary) {
    write_file_atomic(temporary / "a", "1");
    fs::create_directory(temporary / "sub");
    write_file_atomic(temporary / "sub/b", "2");
  });
  EXPECT_EQ(names_in(path), (std::vector<std::string>{"a", "sub"}));
  write_folder_atomic(path, [](const fs::path& temporary) { write_file_atomic(temporary / "c", "3"); });
  EXPECT_EQ(names_in(path), std::vector<std::string>{"c"});
  EXPECT_EQ(names_in(folder / "parent"), std::vector<std::string>{"adapter"});
}

TEST(AtomicFolder, FollowsALink) {
  TempFolder folder;
  fs::create_directories(folder / "large disk/merged");
  fs::create_symlink("large disk/merged", folder / "merged");
  write_folder_atomic(folder / "merged", [](const fs::path& temporary) { write_file_atomic(temporary / "a", "1"); });
  EXPECT_TRUE(fs::is_symlink(folder / "merged"));
  EXPECT_EQ(names_in(folder / "large disk"), std::vector<std::string>{"merged"});
  EXPECT_EQ(names_in(folder / "large disk/merged"), std::vector<std::string>{"a"});
}

TEST(AtomicFolder, ErrorsNameItNotTheTemporaryFolder) {
  TempFolder folder;
  const fs::path path = folder / "run/";
  const std::string error = error_of([&] {
    write_folder_atomic(path, [](const fs::path& temporary) { write_file_atomic(temporary / "none/x", "1"); });
  });
  EXPECT_EQ(error, (folder / "run/none/x").string() + ": cannot write: No such file or directory");
  EXPECT_THAT(names_in(folder.path()), testing::IsEmpty());
}

TEST(AtomicFolder, KeepsTheOldOneWhenFillThrows) {
  TempFolder folder;
  folder.write("adapter/old", "1");
  EXPECT_THROW(write_folder_atomic(folder / "adapter",
                                   [](const fs::path& temporary) {
                                     write_file_atomic(temporary / "new", "2");
                                     throw std::runtime_error("full");
                                   }),
               std::runtime_error);
  EXPECT_EQ(names_in(folder / "adapter"), std::vector<std::string>{"old"});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"adapter"});
}

TEST(AtomicFolder, RefusesAFileInTheWay) {
  TempFolder folder;
  folder.write("adapter", "a file");
  EXPECT_THAT(error_of([&] { write_folder_atomic(folder / "adapter", [](const fs::path&) {}); }),
              HasSubstr("is a file, not a folder"));
  EXPECT_THAT(error_of([&] { write_folder_atomic(folder / "adapter/below", [](const fs::path&) {}); }),
              HasSubstr("adapter: cannot make the folder: Not a directory"));
}

// A reader who opens the folder again and again finds a whole one, old or new, each time.
TEST(AtomicFolder, IsThereAtEveryMoment) {
  TempFolder folder;
  fs::path path = folder / "snapshot";
  auto fill = [](const fs::path& temporary) { write_file_atomic(temporary / "state", "whole"); };
  write_folder_atomic(path, fill);
  std::atomic<bool> done{false};
  int missing = 0, checks = 0;
  std::thread reader([&] {
    while (!done || checks == 0) {
      missing += !fs::exists(path);
      ++checks;
    }
  });
  for (int i = 0; i < 20; ++i) write_folder_atomic(path, fill);
  done = true;
  reader.join();
  EXPECT_EQ(missing, 0) << "of " << checks;
}

TEST(Leftovers, OnlyWhatThisProgramLeftHalfWritten) {
  TempFolder folder;
  for (const char* gone :
       {".metrics.jsonl.tmp-12-0", ".step-4.tmp-3-17/state.json", ".step-2.gone-1-1/a/b", ".kept.old-1-0/x"})
    folder.write(gone, "x");
  for (const char* stays : {"kept/x", ".lost.old-1-0/x", ".hidden", ".a.tmp", ".a.tmp-", ".tmp-1-2", "b.tmp-1-2",
                            ".c.tmp-1-2x", ".d.new-1-2"})
    folder.write(stays, "x");
  remove_leftovers(folder.path());
  remove_leftovers(folder / "nowhere");
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.path())) names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, testing::UnorderedElementsAre("kept", ".lost.old-1-0", ".hidden", ".a.tmp", ".a.tmp-", ".tmp-1-2",
                                                   "b.tmp-1-2", ".c.tmp-1-2x", ".d.new-1-2"));
}

TEST(Folders, AreMadeAndRemoved) {
  TempFolder folder;
  make_folders(folder / "a/b/c");
  make_folders(folder / "a/b/c/");
  EXPECT_TRUE(fs::is_directory(folder / "a/b/c"));
  folder.write("a/b/c/file", "x");
  EXPECT_TRUE(remove_folder(folder / "a/b"));
  EXPECT_TRUE(fs::is_empty(folder / "a"));
  EXPECT_FALSE(remove_folder(folder / "a/b"));
  EXPECT_NE(error_of([&] { make_folders(folder.write("file", "x") / "below"); }), "");
}

}  // namespace
}  // namespace moraine
