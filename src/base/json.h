// JSON parsing with errors that name the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace moraine {

using Json = nlohmann::json;
// Keeps the order of keys, as chat templates must when they print a tool.
using OrderedJson = nlohmann::ordered_json;

// `where` names the text in errors ("config.json", "chats.jsonl:12"). Throws an input error on malformed JSON, on
// invalid UTF-8, on a key given twice in one object, and on nesting deeper than 256.
Json parse_json(std::string_view text, const std::string& where);
OrderedJson parse_ordered_json(std::string_view text, const std::string& where);

Json read_json_file(const std::filesystem::path& path);

}  // namespace moraine
