// Files: reading by byte range, and writing so that a file or folder is whole or not there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace moraine {

// A file opened for reading by byte range. Safe to read from several threads at once.
class File {
 public:
  // Throws an input error that names the path when it cannot be opened or is not a regular file.
  explicit File(std::filesystem::path path);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return fd_; }

  // Fills `into` from byte `offset`. Throws an input error when the file ends before, a run error on an I/O failure.
  void read_exact(std::span<std::byte> into, uint64_t offset) const;

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// The whole file as text. Throws an input error when it is missing, longer than `max_bytes` or a Git LFS pointer.
std::string read_text_file(const std::filesystem::path& path, uint64_t max_bytes = uint64_t{1} << 30);

// A file being written that is whole under its name or not there: bytes go to a temporary file beside it, commit()
// fsyncs, renames and fsyncs the folder. Of a link the target is written. Everything throws a run error that names the
// path, also where something lies there that is no regular file.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();  // removes the temporary file when commit() was not reached
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

// Appends to a file that was opened for that (O_APPEND) and that nobody else writes to: all of `bytes`, or the file is
// as it was. Returns 0 or the error's number.
int append_whole(int fd, std::string_view bytes);

// Writes `path` whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder.
// Throws a run error that names the path.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes);

// Fills a folder whole or not at all: `fill` writes into a temporary folder beside `path`, which is then fsynced and
// renamed over `path`, or what it links to. Missing parent folders are made. An older folder there is replaced: at
// every moment it or the new one lies whole on disk. When `fill` throws, the temporary folder is removed and `path` is
// as it was; an Error then names `path` where it named the temporary folder.
void write_folder_atomic(const std::filesystem::path& path,
                         const std::function<void(const std::filesystem::path& temporary)>& fill);

// Makes `path` and its missing parents so that they survive a loss of power. Throws a run error that names the path.
void make_folders(const std::filesystem::path& path);

// Removes a folder so that it is whole under its name or not there. Returns whether it is gone; never throws.
bool remove_folder(const std::filesystem::path& path);

// Keeps other processes from taking the same lock until this object or the process ends; those of other hosts too where
// the file system can do that.
class FileLock {
 public:
  // Makes the file if need be. Where it cannot be made or locked at all, nothing is kept from anybody.
  explicit FileLock(const std::filesystem::path& path);
  FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)), taken_(other.taken_) {}
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock();
  bool taken_by_another() const { return taken_; }

 private:
  int fd_;
  bool taken_;
};

// Removes what killed processes left in `folder` of the functions above: their temporary files and folders. No process
// may be writing there. A folder that is not there has none.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace moraine
