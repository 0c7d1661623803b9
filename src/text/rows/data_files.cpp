#include "text/rows/data_files.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "text/tokenizer/input_notes.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

bool is_data_file(const fs::path& path) {
  const fs::path name = path.extension() == ".gz" ? path.stem() : path.filename();
  return name.extension() == ".jsonl" || name.extension() == ".json";
}

std::vector<std::string> files_in(const std::string& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const fs::path& path = entry.path();
    std::error_code ignored;
    if (!path.filename().string().starts_with('.') && is_data_file(path) && fs::is_regular_file(path, ignored))
      files.push_back(path.string());
  }
  if (error) throw input_error(folder, "cannot be listed: " + error.message());
  if (files.empty())
    throw input_error(folder, "a folder without .jsonl or .json files",
                      "name the files, or a pattern such as folder/*.jsonl");
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  std::vector<std::string> files;
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) files.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  globfree(&found);
  std::erase_if(files, [](const std::string& file) {
    std::error_code ignored;
    return fs::is_directory(file, ignored);
  });
  if (files.empty()) throw input_error(pattern, "the pattern matches no file");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::vector<std::string> find_data_files(const std::vector<std::string>& names) {
  std::vector<std::string> files;
  for (const std::string& name : names) {
    std::error_code ignored;
    const fs::file_status status = fs::status(name, ignored);
    std::vector<std::string> more{name};
    if (fs::is_directory(status)) {
      more = files_in(name);
    } else if (!fs::exists(status) && name.find_first_of("*?[") != name.npos) {
      more = matches_of(name);
    }
    files.insert(files.end(), more.begin(), more.end());
  }
  std::set<std::string> seen;
  for (const std::string& file : files) {
    std::error_code ignored;
    if (!seen.insert(fs::weakly_canonical(file, ignored).string()).second)
      note_about_input(file + ": is named twice, and its rows count twice");
  }
  return files;
}

}  // namespace moraine
