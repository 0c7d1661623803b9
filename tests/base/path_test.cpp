#include "base/path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/lfs_pointer.h"
#include "base/temp_folder.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(ExpandHome, IsWhatAShellMakesOfIt) {
  const char* set = getenv("HOME");
  const std::string before = set ? set : "";
  const passwd* entry = getpwuid(getuid());
  setenv("HOME", "/home/someone", 1);
  EXPECT_EQ(expand_home("~", "save.dir"), "/home/someone");
  EXPECT_EQ(expand_home("~/runs/1", "save.dir"), "/home/someone/runs/1");
  for (const char* as_written : {"", "a/~", "./~", "/~/x", "runs~1"})
    EXPECT_EQ(expand_home(as_written, "save.dir"), as_written);
  if (entry) {
    EXPECT_EQ(expand_home("~" + std::string(entry->pw_name) + "/x", "save.dir"), std::string(entry->pw_dir) + "/x");
    unsetenv("HOME");
    EXPECT_EQ(expand_home("~/x", "save.dir"), std::string(entry->pw_dir) + "/x");
  }
  EXPECT_THAT(error_of([] { expand_home("~nobody-of-this-name/x", "save.dir"); }),
              HasSubstr("save.dir: '~nobody-of-this-name/x': there is no user"));
  EXPECT_THAT(error_of([] { expand_home(std::string("a\0b", 3), "save.dir"); }),
              HasSubstr("save.dir: the path 'a\\x00b' holds a NUL"));
  if (set) setenv("HOME", before.c_str(), 1);
}

TEST(Paths, ThatCannotBeLookedAtAreErrors) {
  TempFolder folder;
  folder.write("file", "x");
  fs::create_symlink("circle", folder / "circle");
  fs::create_symlink("file", folder / "link");
  fs::create_symlink("../blobs/gone", folder / "dangling");
  EXPECT_TRUE(path_exists(folder / "link"));
  EXPECT_FALSE(path_exists(folder / "none"));
  EXPECT_FALSE(path_exists(folder / "file/below a file"));
  EXPECT_TRUE(is_folder(folder.path()));
  EXPECT_FALSE(is_folder(folder / "file"));
  EXPECT_FALSE(is_folder(folder / "none"));
  const std::string long_name(5000, 'x');
  for (const auto& look : {std::function<void(const fs::path&)>([](const fs::path& path) { path_exists(path); }),
                           std::function<void(const fs::path&)>([](const fs::path& path) { is_folder(path); }),
                           std::function<void(const fs::path&)>([](const fs::path& path) { File file(path); })}) {
    EXPECT_THAT(error_of([&] { look(folder / "circle"); }),
                HasSubstr("circle: cannot open: Too many levels of symbolic links"));
    EXPECT_THAT(error_of([&] { look(long_name); }), HasSubstr("cannot open: File name too long"));
    EXPECT_THAT(error_of([&] { look(folder / "dangling"); }),
                HasSubstr("dangling: cannot open: it is a link to '../blobs/gone', which is not there"));
  }
  EXPECT_THAT(error_of([&] { make_folders(folder / "circle/a"); }),
              HasSubstr("circle/a: cannot make the folder: Too many levels"));
}

TEST(Paths, WhatTheLibraryThrowsNamesThePath) {
  TempFolder folder;
  fs::create_symlink("circle", folder / "circle");
  try {
    static_cast<void>(fs::is_empty(folder / "circle"));
    FAIL();
  } catch (const fs::filesystem_error& thrown) {
    const Error error = error_of_system(thrown);
    EXPECT_EQ(error.kind, ErrorKind::kInput);
    EXPECT_EQ(error.where, (folder / "circle").string());
    EXPECT_EQ(error.message, "Too many levels of symbolic links");
  }
  const Error full =
      error_of_system(fs::filesystem_error("", "a", std::make_error_code(std::errc::no_space_on_device)));
  EXPECT_EQ(full.kind, ErrorKind::kRun);
  // As std::thread does.
  const Error thread = error_of_system(std::system_error(EAGAIN, std::generic_category()));
  EXPECT_EQ(thread.kind, ErrorKind::kRun);
  EXPECT_THAT(thread.what(), HasSubstr("cannot start a thread: Resource temporarily unavailable"));
}

TEST(LfsPointer, IsNamedWhereverAFileIsRead) {
  TempFolder folder;
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '7') + "\nsize 88000\n";
  const fs::path path = folder.write("tokenizer.json", pointer);
  EXPECT_THAT(error_of([&] { read_text_file(path); }),
              testing::AllOf(HasSubstr("tokenizer.json: is a Git LFS pointer"), HasSubstr("git lfs pull")));
  EXPECT_FALSE(is_lfs_pointer(File(folder.write("empty", ""))));
  EXPECT_FALSE(is_lfs_pointer(File(folder.write("a text", "version https://git-lfs.github.com/ is a site"))));
  EXPECT_FALSE(is_lfs_pointer(File(folder.write("long", pointer + std::string(1024, ' ')))));
}

}  // namespace
}  // namespace moraine
