// JSON text as a stream of events, for files of others that are too large for a document in memory: reading takes the
// memory of the longest text in it. The errors are those of base/json.h, which reads documents.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moraine {

class JsonEvents {
 public:
  using Scalar = nlohmann::json;

  virtual ~JsonEvents() = default;

  // Calls the functions below for all of `text`, in order. `where` names it in errors. Throws an input error on
  // malformed JSON, on invalid UTF-8, on nesting deeper than 256 and on a key or value of more than 16 MiB (lists and
  // objects aside). Keys given twice are not looked for.
  void read(std::string_view text, const std::string& where);

 protected:
  virtual void on_scalar(const Scalar& value) = 0;  // null, true, false, a number
  virtual void on_text(std::string& value) = 0;     // may be moved from
  virtual void on_key(std::string& name) = 0;       // of the object that was begun last; may be moved from
  virtual void on_begin(bool is_object) = 0;        // an object or a list
  virtual void on_end() = 0;

  const std::string& where() const { return *where_; }

 private:
  class Sax;
  const std::string* where_ = nullptr;
};

}  // namespace moraine
