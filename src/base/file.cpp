#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/lfs_pointer.h"
#include "base/path.h"

namespace moraine {

namespace fs = std::filesystem;

namespace {

Error write_failure(const fs::path& path, int code) {
  return run_error(path.string(), fmt::format("cannot write: {}", std::strerror(code)));
}

// What names beside a path are for.
constexpr const char kTemporary[] = "tmp", kReplaced[] = "old", kGone[] = "gone";

// A name beside `path` that no other writer uses, hidden from listings: remove_leftovers knows it by its form.
fs::path name_beside(const fs::path& path, const char* purpose) {
  static std::atomic<uint64_t> count{0};
  return path.parent_path() / fmt::format(".{}.{}-{}-{}", path.filename().string(), purpose, ::getpid(), count++);
}

// `path` without a trailing slash, so that it has a filename and a parent.
fs::path without_trailing_slash(const fs::path& path) {
  fs::path absolute = fs::absolute(path).lexically_normal();
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

// What a link leads to, which is replaced in its place: the link stays. Other paths as they are.
fs::path behind_link(const fs::path& path) {
  std::error_code error;
  if (!fs::is_symlink(path, error)) return path;
  const fs::path target = fs::canonical(path, error);
  return error ? path : target;
}

std::string without_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Makes a finished file, or the names in a folder, survive a loss of power. `shown` is what errors name.
void sync_path(const fs::path& path, int flags, const fs::path& shown) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  if (fd < 0) throw write_failure(shown, errno);
  int result = ::fsync(fd);
  int code = errno;
  ::close(fd);
  // Some file systems cannot fsync a folder; there is nothing more to be done on them.
  if (result != 0 && code != EINVAL && code != ENOTSUP) throw write_failure(shown, code);
}

void sync_folder(const fs::path& folder, const fs::path& shown) {
  sync_path(folder.empty() ? fs::path(".") : folder, O_DIRECTORY, shown);
}

void sync_tree(const fs::path& folder, const fs::path& shown) {
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) {
      sync_folder(entry.path(), shown);
    } else if (entry.is_regular_file()) {
      sync_path(entry.path(), 0, shown);
    }
  }
  sync_folder(folder, shown);
}

// Has the system begin to write what lies in whole pieces behind `fd`'s position, of which `written` bytes are new: the
// disk works while the next bytes are made, and fsync finds little left. A hint; fsync says what fails.
void begin_writeback(int fd, uint64_t written) {
  constexpr uint64_t kPiece = uint64_t{8} << 20;
  const off_t position = ::lseek(fd, 0, SEEK_CUR);
  if (position < 0) return;
  const uint64_t end = static_cast<uint64_t>(position) / kPiece * kPiece,
                 begin = (static_cast<uint64_t>(position) - written) / kPiece * kPiece;
  if (begin < end)
    ::sync_file_range(fd, static_cast<off_t>(begin), static_cast<off_t>(end - begin), SYNC_FILE_RANGE_WRITE);
}

// Puts the folder `fresh` at `path`, where an older one is, which is removed afterwards. `fresh` and `path` lie side by
// side.
void replace_folder(const fs::path& fresh, const fs::path& path) {
  if (::renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    sync_folder(path.parent_path(), path);
    std::error_code ignored;  // the new folder is in place; what could not be removed has a temporary name
    fs::remove_all(fresh, ignored);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) throw write_failure(path, errno);
  // File systems without an exchange (NFS): for a moment nothing is at `path`, but both folders lie beside it.
  fs::path aside = name_beside(path, kReplaced);
  if (::rename(path.c_str(), aside.c_str()) != 0) throw write_failure(path, errno);
  if (::rename(fresh.c_str(), path.c_str()) != 0) {
    int code = errno;
    ::rename(aside.c_str(), path.c_str());
    throw write_failure(path, code);
  }
  sync_folder(path.parent_path(), path);
  std::error_code ignored;
  fs::remove_all(aside, ignored);
}

}  // namespace

File::File(fs::path path) : path_(std::move(path)) {
  // O_NONBLOCK: a named pipe must be refused below, not waited for.
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) throw input_error(path_.string(), "cannot open: " + why_not_opened(path_, errno));
  struct stat status;
  const char* problem = nullptr;
  if (::fstat(fd_, &status) != 0) {
    problem = std::strerror(errno);
  } else if (!S_ISREG(status.st_mode)) {
    problem = S_ISDIR(status.st_mode) ? "it is a folder, not a file" : "not a regular file";
  }
  if (problem) {
    ::close(fd_);
    throw input_error(path_.string(), fmt::format("cannot open: {}", problem));
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(std::exchange(other.size_, 0)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

void File::read_exact(std::span<std::byte> into, uint64_t offset) const {
  const uint64_t begin = offset, wanted = into.size();
  while (!into.empty()) {
    // Linux reads at most 2 GiB a call.
    ssize_t got = ::pread(fd_, into.data(), std::min<size_t>(into.size(), size_t{1} << 30), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw run_error(path_.string(), fmt::format("cannot read at byte {}: {}", offset, std::strerror(errno)));
    if (got == 0) {
      throw input_error(
          path_.string(),
          fmt::format("ends at byte {}, where bytes {} to {} were expected", offset, begin, begin + wanted),
          "the file is cut short");
    }
    into = into.subspan(static_cast<size_t>(got));
    offset += static_cast<uint64_t>(got);
  }
}

std::string read_text_file(const fs::path& path, uint64_t max_bytes) {
  File file(path);
  refuse_lfs_pointer(file);
  if (file.size() > max_bytes) {
    throw input_error(path.string(), fmt::format("is {} long, at most {} are read", format_bytes(file.size()),
                                                 format_bytes(max_bytes)));
  }
  std::string text(file.size(), '\0');
  file.read_exact(std::as_writable_bytes(std::span(text)), 0);
  return text;
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)) {
  path_ = behind_link(path_);
  std::error_code none;
  // What is renamed over a device or a pipe (/dev/null) would take its place.
  if (const fs::file_status status = fs::status(path_, none); fs::exists(status) && !fs::is_regular_file(status))
    throw run_error(path_.string(), "cannot write: it is no regular file, and no file can take its place");
  do {
    temporary_ = name_beside(path_, kTemporary);
    fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (fd_ < 0 && errno == EEXIST);  // left by a killed process with our id
  if (fd_ < 0) throw write_failure(path_, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t written = ::write(fd_, bytes.data(), std::min<size_t>(bytes.size(), size_t{1} << 30));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw write_failure(path_, errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    begin_writeback(fd_, static_cast<uint64_t>(written));
  }
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) throw write_failure(path_, errno);
  if (::close(std::exchange(fd_, -1)) != 0) throw write_failure(path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw write_failure(path_, errno);
  temporary_.clear();
  sync_folder(path_.parent_path(), path_);
}

int append_whole(int fd, std::string_view bytes) {
  struct stat before;
  if (::fstat(fd, &before) != 0) return errno;
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int code = errno;
      [[maybe_unused]] const int cut = ::ftruncate(fd, before.st_size);
      return code;
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

void write_file_atomic(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(bytes)));
  file.commit();
}

void write_folder_atomic(const fs::path& path, const std::function<void(const fs::path& temporary)>& fill) {
  const fs::path target = behind_link(without_trailing_slash(path));
  const fs::path temporary = name_beside(target, kTemporary);
  try {
    make_folders(target.parent_path());
    if (fs::exists(target) && !fs::is_directory(target)) throw run_error(path.string(), "is a file, not a folder");
    fs::remove_all(temporary);  // left by a killed process with our id
    fs::create_directory(temporary);
    fill(temporary);
    sync_tree(temporary, path);
    if (fs::exists(target)) {
      replace_folder(temporary, target);
    } else {
      if (::rename(temporary.c_str(), target.c_str()) != 0) throw write_failure(path, errno);
      sync_folder(target.parent_path(), path);
    }
  } catch (const fs::filesystem_error& error) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw write_failure(path, error.code().value());
  } catch (const Error& error) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    if (!error.where.starts_with(temporary.string())) throw;
    const std::string within =
        error.where.substr(temporary.string().size());  // the temporary name tells a user nothing
    throw Error(error.kind, without_slash(path.string()) + within, error.message, error.hint);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary, ignored);
    throw;
  }
}

void make_folders(const fs::path& path) {
  std::vector<fs::path> missing;  // the innermost first
  std::error_code error;          // create_directories says why
  for (fs::path folder = without_trailing_slash(path); !fs::exists(folder, error); folder = folder.parent_path())
    missing.push_back(folder);
  fs::create_directories(path, error);
  if (error) throw run_error(path.string(), fmt::format("cannot make the folder: {}", error.message()));
  for (const fs::path& folder : missing) sync_folder(folder.parent_path(), folder);
}

bool remove_folder(const fs::path& path) {
  const fs::path aside = name_beside(without_trailing_slash(path), kGone);
  std::error_code error;
  fs::rename(path, aside, error);
  if (!error) fs::remove_all(aside, error);
  return !error;
}

FileLock::FileLock(const fs::path& path) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  taken_ = fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

FileLock::~FileLock() {
  if (fd_ >= 0) ::close(fd_);
}

void remove_leftovers(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const size_t number = name.rfind('-'), process = number == name.npos ? name.npos : name.rfind('-', number - 1);
    const size_t purpose_at = process == name.npos ? name.npos : name.rfind('.', process);
    if (name.front() != '.' || purpose_at == name.npos || purpose_at < 2) continue;
    const std::string digits = name.substr(process + 1),
                      purpose = name.substr(purpose_at + 1, process - purpose_at - 1);
    if (digits.find_first_not_of("0123456789-") != digits.npos) continue;
    // What replace_folder moved aside may be the only copy.
    const bool replaced = purpose == kReplaced && fs::exists(folder / name.substr(1, purpose_at - 1), ignored);
    if (purpose == kTemporary || purpose == kGone || replaced) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace moraine
