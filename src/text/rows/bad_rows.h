// Rows of data files that cannot be used, reported together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace moraine {

class BadRows {
 public:
  // `error` is an input error about one row, whose `where` begins with file and line; another kind of error is thrown
  // on.
  void add(const Error& error);

  int64_t count() const { return count_; }
  // "3 bad rows of 6: a.jsonl:2: WHAT; a.jsonl:4: …; and 1 more", with the first few of them.
  std::string in_words(int64_t rows) const;
  // Throws an input error about `file` unless there is no bad row: the row's own error where it is the only one.
  // `way_out` is what can be done besides mending them.
  void refuse(const std::string& file, int64_t rows,
              const std::string& way_out = "leave them out with data.on_bad_rows: skip") const;

 private:
  int64_t count_ = 0;
  std::vector<Error> first_;
};

}  // namespace moraine
