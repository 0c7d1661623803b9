// The JSON rows of a data file, one at a time: one object a line (JSONL), or one array of objects.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace moraine {

struct JsonRow {
  std::string text;  // of one JSON value, not parsed yet
  int64_t line = 0;  // where it begins, from 1
};

// Streams a file: no more than a row is held. A byte order mark, CRLF and blank lines are skipped. A file whose first
// character is '[' is an array, whatever its name; its rows may span lines.
class RowReader {
 public:
  // Throws an input error when the file is missing or not a regular file.
  explicit RowReader(const std::string& path);

  // False at the end. Throws an input error `FILE:LINE: …` when the array is not well-formed.
  bool next(JsonRow& row);

 private:
  bool next_line(JsonRow& row);
  bool next_element(JsonRow& row);
  int get();  // the next byte, or -1
  int skip_space();

  std::string path_;
  std::ifstream file_;
  bool is_array_ = false, array_ended_ = false, first_ = true;
  int64_t line_ = 1;  // of the next byte
};

}  // namespace moraine
