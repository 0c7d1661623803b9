// A checkpoint's config.json with typed, named access.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/dtype.h"

namespace moraine {

// One JSON object of a config.json. Every getter throws an input error that names file and key on a wrong type, and the
// ones without a default on a missing key. JSON null counts as missing.
class HfConfig {
 public:
  // Reads FOLDER/config.json, or the file itself when `path` is one.
  static HfConfig read(const std::filesystem::path& path);
  // `json` must be an object.
  HfConfig(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {}

  bool has(const std::string& key) const;
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  double number(const std::string& key) const;
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  std::vector<int64_t> integers(const std::string& key) const;   // empty when missing
  std::vector<std::string> texts(const std::string& key) const;  // empty when missing
  HfConfig object(const std::string& key) const;                 // throws when missing

  // architectures[0]; throws when there is none.
  std::string architecture() const;
  // dtype or torch_dtype, also inside text_config; nullopt when not said. Only F32, BF16 and F16 are accepted.
  std::optional<DType> dtype() const;

  // From now on, whatever is asked of this object and of objects taken from it is entered in `keys`, which outlives
  // them. For tests: which keys a description reads.
  void record_keys(std::set<std::string>& keys) { recorded_ = &keys; }

  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  // The value of a key, nullptr when it is missing or null.
  const Json* find(const std::string& key) const;
  const Json& required(const std::string& key) const;

  Json json_;
  std::string where_;
  std::set<std::string>* recorded_ = nullptr;
};

// The text of the config.json `path` for a checkpoint that is written in `dtype` ("bfloat16"): said wherever the file
// says one, under whichever of its two names, of the text model, the vision tower or all. Without the keys `dropped`;
// the others keep their order.
std::string config_text_with_dtype(const std::filesystem::path& path, const std::string& dtype,
                                   const std::vector<std::string>& dropped = {});

}  // namespace moraine
