// A place in a JSON file, for errors that name it.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace moraine {

// Refers to a document that outlives it. `path` is as in "pre_tokenizer.pretokenizers[1]"; a field that is missing
// reads as null.
class JsonField {
 public:
  JsonField(const Json& root, std::string file) : json_(&root), file_(std::move(file)) {}

  const Json& json() const { return *json_; }
  const std::string& file() const { return file_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return json_->is_null(); }

  // Throws an input error: FILE: PATH WHAT (HINT).
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") const {
    throw input_error(file_, path_.empty() ? what : path_ + " " + what, hint);
  }

  // The member `name` of this object.
  JsonField operator[](const char* name) const {
    static const Json null;
    if (!json_->is_object()) refuse("must be an object");
    auto it = json_->find(name);
    return {it == json_->end() ? null : *it, file_, path_.empty() ? name : path_ + "." + name};
  }

  // The items of this array.
  std::vector<JsonField> items() const {
    if (!json_->is_array()) refuse("must be an array");
    std::vector<JsonField> out;
    for (size_t i = 0; i < json_->size(); ++i) out.push_back({(*json_)[i], file_, fmt::format("{}[{}]", path_, i)});
    return out;
  }

  const std::string& string() const {
    if (!json_->is_string()) refuse("must be a string");
    return json_->get_ref<const std::string&>();
  }

  // Without a default the field must be there.
  bool boolean(std::optional<bool> otherwise = std::nullopt) const {
    if (is_null() && otherwise) return *otherwise;
    if (!json_->is_boolean()) refuse("must be true or false");
    return json_->get<bool>();
  }

  // An id of a token. The bound keeps a broken file from claiming memory.
  uint32_t token_id() const {
    constexpr uint64_t kLimit = 1 << 24;
    if (!json_->is_number_unsigned() || json_->get<uint64_t>() >= kLimit) {
      refuse(fmt::format("must be a token id from 0 to {}", kLimit - 1));
    }
    return json_->get<uint32_t>();
  }

 private:
  JsonField(const Json& json, std::string file, std::string path)
      : json_(&json), file_(std::move(file)), path_(std::move(path)) {}

  const Json* json_;
  std::string file_, path_;
};

}  // namespace moraine
