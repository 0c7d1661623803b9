// Paths as users write them, and what is there.
#pragma once

#include <filesystem>
#include <string>
#include <system_error>

#include "base/error.h"

namespace moraine {

// `path` with its leading `~` or `~user` as the home folder that a shell would put there: it leaves those within a word
// (save.dir=~/runs) and in files alone. `where` names the path in errors. Throws an input error when there is no such
// home folder, and for a NUL character, where the system's calls would end the path.
std::string expand_home(const std::string& path, const std::string& where);

// Whether something is there, and whether it is a folder, for paths that are to be read; links are followed. Throw an
// input error where that cannot be told (links in a circle, a name that is too long, no permission) and for a link to
// what is not there.
bool path_exists(const std::filesystem::path& path);
bool is_folder(const std::filesystem::path& path);

// Why `path` cannot be opened: the system's words for `code`, or that it is a link to what is not there.
std::string why_not_opened(const std::filesystem::path& path, int code);

// What std::filesystem or std::thread threw: an input error that names the path where a path is to blame, else a run
// error.
Error error_of_system(const std::system_error& error);

}  // namespace moraine
