#include "text/rows/row_reader.h"

#include <fmt/format.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/lfs_pointer.h"
#include "base/path.h"

namespace moraine {
namespace {

bool is_space(int c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

}  // namespace

RowReader::RowReader(const std::string& path) : path_(path), buffer_(size_t{1} << 16) {
  if (!path_exists(path)) throw input_error(path, "no such file");
  if (!std::filesystem::is_regular_file(path)) throw input_error(path, "not a regular file");
  refuse_lfs_pointer(File(path));
  file_ = gzopen(path.c_str(), "rb");
  if (file_ == nullptr) throw input_error(path, "cannot be opened for reading");
  try {
    for (const int mark : {0xEF, 0xBB, 0xBF}) {
      if (peek() != mark) break;  // only whole marks begin with these bytes: no JSON does
      get();
    }
    const int c = skip_space();
    if (c == '[') {
      is_array_ = true;
    } else if (c != -1) {
      --at_;
    }
  } catch (...) {
    gzclose(file_);
    throw;
  }
}

RowReader::~RowReader() { gzclose(file_); }

bool RowReader::next(JsonRow& row) { return is_array_ ? next_element(row) : next_line(row); }

bool RowReader::fill() {
  const int count = gzread(file_, buffer_.data(), static_cast<unsigned>(buffer_.size()));
  at_ = 0;
  end_ = count > 0 ? static_cast<size_t>(count) : 0;
  if (count > 0) return true;
  int error = Z_OK;
  const std::string what = gzerror(file_, &error);
  if (error == Z_ERRNO) throw run_error(path_, "cannot be read");
  if (error != Z_OK) {
    throw input_error(path_, "the compressed data are " + std::string(error == Z_BUF_ERROR ? "cut short" : "damaged"),
                      "download or compress the file again");
  }
  return false;
}

int RowReader::peek() {
  if (at_ == end_ && !fill()) return -1;
  return static_cast<unsigned char>(buffer_[at_]);
}

int RowReader::get() {
  const int c = peek();
  if (c == -1) return -1;
  ++at_;
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
  while (peek() != -1) {
    row.text.clear();
    row.line = line_++;
    do {
      const char* begin = buffer_.data() + at_;
      const auto* newline = static_cast<const char*>(std::memchr(begin, '\n', end_ - at_));
      row.text.append(begin, newline != nullptr ? newline : buffer_.data() + end_);
      at_ = newline != nullptr ? static_cast<size_t>(newline - buffer_.data()) + 1 : end_;
      if (newline != nullptr) break;
    } while (fill());
    if (row.text.find_first_not_of(" \t\r") == row.text.npos) continue;
    if (row.text.back() == '\r') row.text.pop_back();
    return true;
  }
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
