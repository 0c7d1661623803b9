#include "base/path.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace moraine {
namespace fs = std::filesystem;

namespace {

// "" when there is none.
std::string home_of(const std::string& user) {
  if (user.empty()) {
    const char* home = std::getenv("HOME");
    if (home && *home) return home;
  }
  const passwd* entry = user.empty() ? getpwuid(getuid()) : getpwnam(user.c_str());
  return entry && entry->pw_dir ? entry->pw_dir : "";
}

fs::file_status look_at(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  const bool nothing = status.type() == fs::file_type::not_found && !fs::is_symlink(fs::symlink_status(path, error));
  if (fs::status_known(status) && (nothing || fs::exists(status))) return status;
  const int code = fs::status_known(status) ? ENOENT : error.value();
  throw input_error(path.string(), "cannot open: " + why_not_opened(path, code));
}

}  // namespace

std::string expand_home(const std::string& path, const std::string& where) {
  if (path.find('\0') != path.npos) throw input_error(where, "the path " + quote_text(path) + " holds a NUL character");
  if (!path.starts_with('~')) return path;
  const size_t slash = path.find('/');
  const std::string user = path.substr(1, slash == path.npos ? slash : slash - 1), home = home_of(user);
  if (home.empty()) {
    throw input_error(where,
                      user.empty()
                          ? fmt::format("{}: HOME is not set and this user has no home folder", quote_text(path))
                          : fmt::format("{}: there is no user {}", quote_text(path), quote_text(user)),
                      "write ./~ for a name that begins with ~");
  }
  return slash == path.npos ? home : home + path.substr(slash);
}

bool path_exists(const fs::path& path) { return fs::exists(look_at(path)); }
bool is_folder(const fs::path& path) { return fs::is_directory(look_at(path)); }

std::string why_not_opened(const fs::path& path, int code) {
  std::error_code error;
  if (code == ENOENT) {
    const fs::path target = fs::read_symlink(path, error);
    if (!error) return fmt::format("it is a link to {}, which is not there", quote_text(target.string()));
  }
  return std::strerror(code);
}

Error error_of_system(const std::system_error& error) {
  const std::string what = error.code().message();
  const auto* of_path = dynamic_cast<const fs::filesystem_error*>(&error);
  if (!of_path) {
    const bool no_thread = error.code() == std::errc::resource_unavailable_try_again;
    return run_error("system", no_thread ? "cannot start a thread: " + what : what,
                     no_thread ? "is there a limit on processes (ulimit -u)?" : "");
  }
  const std::string where = of_path->path1().empty() ? "current folder" : of_path->path1().string();
  switch (error.code().value()) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case ELOOP:
    case ENAMETOOLONG:
      return input_error(where, what);
    default:
      return run_error(where, what);
  }
}

}  // namespace moraine
