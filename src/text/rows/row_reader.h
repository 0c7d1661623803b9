// The JSON rows of a data file, one at a time: one object a line (JSONL), or one array of objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct gzFile_s;

namespace moraine {

struct JsonRow {
  std::string text;  // of one JSON value, not parsed yet
  int64_t line = 0;  // where it begins, from 1
};

// Streams a file, compressed with gzip or not: no more than a row is held. A byte order mark, CRLF and blank lines are
// skipped. A file whose first character is '[' is an array, whatever its name; its rows may span lines.
class RowReader {
 public:
  // Throws an input error when the file is missing or not a regular file.
  explicit RowReader(const std::string& path);
  ~RowReader();

  // False at the end. Throws an input error `FILE:LINE: …` when the array is not well-formed, and one that names the
  // file when its compressed data are damaged or cut short.
  bool next(JsonRow& row);

 private:
  bool next_line(JsonRow& row);
  bool next_element(JsonRow& row);
  int get();  // the next byte, or -1
  int peek();
  bool fill();  // the buffer; false at the end of the file
  int skip_space();

  std::string path_;
  gzFile_s* file_ = nullptr;
  std::vector<char> buffer_;
  size_t at_ = 0, end_ = 0;  // what is left of the buffer
  bool is_array_ = false, array_ended_ = false, first_ = true;
  int64_t line_ = 1;  // of the next byte
};

}  // namespace moraine
