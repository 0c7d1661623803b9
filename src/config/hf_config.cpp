#include "config/hf_config.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/not_finite.h"
#include "base/path.h"
#include "base/text.h"
#include "formats/folder_parts.h"

namespace moraine {
namespace {

Error wrong_type(const std::string& where, const std::string& key, const Json& value, const char* expected) {
  return input_error(where,
                     fmt::format("key '{}' must be {}, not {}", key, expected, quote_text(value_for_error(value))));
}

int64_t to_integer(const std::string& where, const std::string& key, const Json& value) {
  bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if (!value.is_number_integer() || too_large) throw wrong_type(where, key, value, "an integer");
  return value.get<int64_t>();
}

double to_number(const std::string& where, const std::string& key, const Json& value) {
  if (!value.is_number()) throw wrong_type(where, key, value, "a number");
  return value.get<double>();
}

std::string to_text(const std::string& where, const std::string& key, const Json& value) {
  if (!value.is_string()) throw wrong_type(where, key, value, "a string");
  return value.get<std::string>();
}

}  // namespace

HfConfig HfConfig::read(const std::filesystem::path& path) {
  if (!path_exists(path) && path.extension() != ".json") throw no_such_folder(path);
  const std::filesystem::path file = is_folder(path) ? find_in_folder(path, FolderPart::kConfig) : path;
  Json json = read_json_file(file);
  if (!json.is_object()) throw input_error(file.string(), "not a JSON object");
  return HfConfig(std::move(json), file.string());
}

const Json* HfConfig::find(const std::string& key) const {
  if (recorded_) recorded_->insert(key);
  const auto found = json_.find(key);
  return found == json_.end() || found->is_null() ? nullptr : &*found;
}

const Json& HfConfig::required(const std::string& key) const {
  const Json* value = find(key);
  if (!value) throw input_error(where_, fmt::format("missing key '{}'", key));
  return *value;
}

bool HfConfig::has(const std::string& key) const { return find(key) != nullptr; }

int64_t HfConfig::integer(const std::string& key) const { return to_integer(where_, key, required(key)); }

int64_t HfConfig::integer(const std::string& key, int64_t otherwise) const {
  const Json* value = find(key);
  return value ? to_integer(where_, key, *value) : otherwise;
}

double HfConfig::number(const std::string& key) const { return to_number(where_, key, required(key)); }

double HfConfig::number(const std::string& key, double otherwise) const {
  const Json* value = find(key);
  return value ? to_number(where_, key, *value) : otherwise;
}

bool HfConfig::boolean(const std::string& key, bool otherwise) const {
  const Json* value = find(key);
  if (value && !value->is_boolean()) throw wrong_type(where_, key, *value, "true or false");
  return value ? value->get<bool>() : otherwise;
}

std::string HfConfig::text(const std::string& key, const std::string& otherwise) const {
  const Json* value = find(key);
  return value ? to_text(where_, key, *value) : otherwise;
}

std::vector<int64_t> HfConfig::integers(const std::string& key) const {
  std::vector<int64_t> list;
  const Json* value = find(key);
  if (value && !value->is_array()) throw wrong_type(where_, key, *value, "a list of integers");
  if (value) {
    for (const Json& item : *value) list.push_back(to_integer(where_, key, item));
  }
  return list;
}

std::vector<std::string> HfConfig::texts(const std::string& key) const {
  std::vector<std::string> list;
  const Json* value = find(key);
  if (value && !value->is_array()) throw wrong_type(where_, key, *value, "a list of strings");
  if (value) {
    for (const Json& item : *value) list.push_back(to_text(where_, key, item));
  }
  return list;
}

HfConfig HfConfig::object(const std::string& key) const {
  const Json& value = required(key);
  if (!value.is_object()) throw wrong_type(where_, key, value, "an object");
  HfConfig object(value, where_ + ": " + key);
  object.recorded_ = recorded_;
  return object;
}

std::string HfConfig::architecture() const {
  std::vector<std::string> names = texts("architectures");
  if (names.empty()) throw input_error(where_, "missing key 'architectures'", "it names the model's class");
  return names[0];
}

std::optional<DType> HfConfig::dtype() const {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!has(key)) continue;
    std::string name = text(key, "");
    if (name.starts_with("torch.")) name.erase(0, 6);
    if (name == "bfloat16") return DType::kBF16;
    if (name == "float16") return DType::kF16;
    if (name == "float32") return DType::kF32;
    throw input_error(where_, fmt::format("key '{}' is {}", key, quote_text(name)),
                      "supported are bfloat16, float16 and float32");
  }
  if (has("text_config")) return object("text_config").dtype();
  return std::nullopt;
}

std::string config_text_with_dtype(const std::filesystem::path& path, const std::string& dtype,
                                   const std::vector<std::string>& dropped) {
  OrderedJson config = parse_ordered_json(read_text_file(path), path.string());
  bool said = false;
  const auto change = [&](OrderedJson& object) {
    for (const std::string& key : dropped) object.erase(key);
    for (const char* key : {"dtype", "torch_dtype"}) {
      if (!object.contains(key)) continue;
      object[key] = dtype;
      said = true;
    }
  };
  change(config);
  for (const char* part : {"text_config", "vision_config"})
    if (config.contains(part) && config[part].is_object()) change(config[part]);
  if (!said) config["torch_dtype"] = dtype;
  return dump_with_not_finite(std::move(config), 2) + "\n";
}

}  // namespace moraine
