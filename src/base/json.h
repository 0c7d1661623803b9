// JSON parsing with errors that name the file.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace moraine {

using Json = nlohmann::json;
// Keeps the order of keys, as chat templates must when they print a tool.
using OrderedJson = nlohmann::ordered_json;

// `where` names the text in errors ("config.json", "chats.jsonl:12"). Throws an input error on malformed JSON, on
// invalid UTF-8, on a key given twice in one object, and on nesting deeper than 256. NaN, Infinity: base/not_finite.h.
Json parse_json(std::string_view text, const std::string& where);
OrderedJson parse_ordered_json(std::string_view text, const std::string& where);

// For the rows of a data file, whose numbers are printed again: as parse_ordered_json, but an integer beyond 64 bits is
// no float. It keeps its digits, as a binary value, which JSON text has no other use for.
OrderedJson parse_exact_json(std::string_view text, const std::string& where);

// The digits of an integer beyond 64 bits that parse_exact_json read; nullopt for every other value.
std::optional<std::string> big_integer_digits(const OrderedJson& value);

Json read_json_file(const std::filesystem::path& path);

}  // namespace moraine
