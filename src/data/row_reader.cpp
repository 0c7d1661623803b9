#include "data/row_reader.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/error.h"
#include "base/lfs_pointer.h"
#include "base/path.h"

namespace moraine {
namespace {

bool is_space(int c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

}  // namespace

RowReader::RowReader(const std::string& path) : path_(path) {
  if (!path_exists(path)) throw input_error(path, "no such file");
  if (!std::filesystem::is_regular_file(path)) throw input_error(path, "not a regular file");
  refuse_lfs_pointer(File(path));
  file_.open(path, std::ios::binary);
  if (!file_) throw input_error(path, "cannot be opened for reading");
  char mark[3] = {};
  file_.read(mark, 3);
  if (!(file_.gcount() == 3 && std::string_view(mark, 3) == "\xef\xbb\xbf")) {
    file_.clear();
    file_.seekg(0);
  }
  const int c = skip_space();
  if (c == '[') {
    is_array_ = true;
  } else if (c != -1) {
    file_.unget();
  }
}

bool RowReader::next(JsonRow& row) {
  return is_array_ ? next_element(row) : next_line(row);
}

int RowReader::get() {
  const int c = file_.get();
  if (file_.bad()) throw run_error(path_, "cannot be read");
  if (c == std::char_traits<char>::eof()) return -1;
  if (c == '\n') ++line_;
  return c;
}

int RowReader::skip_space() {
  int c;
  do c = get();
  while (is_space(c));
  return c;
}

bool RowReader::next_line(JsonRow& row) {
  while (std::getline(file_, row.text)) {
    row.line = line_++;
    if (row.text.find_first_not_of(" \t\r") == row.text.npos) continue;
    if (row.text.back() == '\r') row.text.pop_back();
    return true;
  }
  if (file_.bad()) throw run_error(path_, "cannot be read");
  return false;
}

bool RowReader::next_element(JsonRow& row) {
  if (array_ended_) return false;
  row.text.clear();
  int c = skip_space();
  row.line = line_;
  int depth = 0;
  bool in_string = false;
  for (;; c = get()) {
    if (c == -1)
      throw input_error(fmt::format("{}:{}", path_, line_), "the array is not closed", "is the file cut short?");
    if (in_string) {
      row.text += static_cast<char>(c);
      if (c == '"') in_string = false;
      if (c != '\\') continue;
      if ((c = get()) != -1) row.text += static_cast<char>(c);
      continue;
    }
    if (depth == 0 && (c == ',' || c == ']')) break;
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    row.text += static_cast<char>(c);
  }
  const bool empty = row.text.empty();
  if (c == ']') {
    array_ended_ = true;
    if (skip_space() != -1) throw input_error(fmt::format("{}:{}", path_, line_), "text after the array's end");
    if (first_ && empty) return false;
  }
  if (empty) throw input_error(fmt::format("{}:{}", path_, row.line), "a comma without a row");
  first_ = false;
  return true;
}

}  // namespace moraine
