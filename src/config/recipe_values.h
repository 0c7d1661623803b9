// Values of a recipe: from YAML nodes to typed fields and back to YAML text. Used by recipe.cpp only.
#pragma once

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "config/recipe_keys.h"

namespace moraine {

// What the user wrote for one key, and where ("recipe.yaml", "override 'train.steps=5'").
struct Setting {
  std::string key;
  YAML::Node node;
  std::string where;
};

// What a key takes, in words that follow "expected".
std::string expected_value(const std::string& field, AnyValue);
std::string expected_value(const std::string& field, PathValue);
std::string expected_value(ByteSize field, AnyValue);
std::string expected_value(const ResumeFrom& field, PathValue);
std::string expected_value(const MicroBatchTokens& field, const Whole& rule);
std::string expected_value(int64_t field, const Whole& rule);
std::string expected_value(const std::optional<int64_t>& field, const Whole& rule);
std::string expected_value(uint64_t field, AnyValue);
std::string expected_value(double field, const Real& rule);
std::string expected_value(const std::optional<double>& field, const Real& rule);
std::string expected_value(const std::array<double, 2>& field, const Real& rule);
std::string expected_value(bool field, AnyValue);
std::string expected_value(const std::vector<std::string>& field, AnyValue);
std::string expected_value(const std::vector<std::string>& field, PathValue);
std::string expected_value(const std::vector<int64_t>& field, const Whole& rule);
std::string expected_value(const PatternMap<int64_t>& field, const Whole& rule);
std::string expected_value(const PatternMap<double>& field, const Real& rule);
std::string expected_value(const ModuleSelection& field, Modules rule);
std::string expected_value(const Json& field, AnyValue);
std::string expected_value(const Json& field, TextMap);
std::string expected_word(const std::vector<std::string>& words);
template <typename Enum>
std::vector<std::string> word_list() {
  constexpr auto words = words_of(Enum{});
  return {words.begin(), words.end()};
}
template <typename Enum>
requires std::is_enum_v<Enum> std::string expected_value(Enum, AnyValue) { return expected_word(word_list<Enum>()); }
template <typename Enum>
requires std::is_enum_v<Enum> std::string expected_value(const std::vector<Enum>&, AnyValue) {
  return "a list, each " + expected_word(word_list<Enum>());
}

// Sets the field. Throw input errors that name key, value and what is expected.
void parse_value(const Setting& setting, std::string& field, AnyValue);
void parse_value(const Setting& setting, std::string& field, PathValue);
void parse_value(const Setting& setting, ByteSize& field, AnyValue);
void parse_value(const Setting& setting, ResumeFrom& field, PathValue);
void parse_value(const Setting& setting, MicroBatchTokens& field, const Whole& rule);
// The place among `words` of the one that is written.
size_t parse_word(const Setting& setting, const std::vector<std::string>& words);
template <typename Enum>
requires std::is_enum_v<Enum>
void parse_value(const Setting& setting, Enum& field, AnyValue) {
  field = static_cast<Enum>(parse_word(setting, word_list<Enum>()));
}
void parse_value(const Setting& setting, int64_t& field, const Whole& rule);
void parse_value(const Setting& setting, std::optional<int64_t>& field, const Whole& rule);
void parse_value(const Setting& setting, uint64_t& field, AnyValue);
void parse_value(const Setting& setting, double& field, const Real& rule);
void parse_value(const Setting& setting, std::optional<double>& field, const Real& rule);
void parse_value(const Setting& setting, std::array<double, 2>& field, const Real& rule);
void parse_value(const Setting& setting, bool& field, AnyValue);
void parse_value(const Setting& setting, std::vector<std::string>& field, AnyValue);  // one string is a list of one
void parse_value(const Setting& setting, std::vector<std::string>& field, PathValue);
template <typename Enum>
requires std::is_enum_v<Enum>
void parse_value(const Setting& setting, std::vector<Enum>& field, AnyValue rule) {
  std::vector<std::string> words;
  parse_value(setting, words, rule);
  field.clear();
  for (const std::string& word : words) {
    const auto choice =
        static_cast<Enum>(parse_word({setting.key, YAML::Node(word), setting.where}, word_list<Enum>()));
    if (std::find(field.begin(), field.end(), choice) == field.end()) field.push_back(choice);
  }
}
void parse_value(const Setting& setting, std::vector<int64_t>& field, const Whole& rule);  // one is a list of one
void parse_value(const Setting& setting, PatternMap<int64_t>& field, const Whole& rule);
void parse_value(const Setting& setting, PatternMap<double>& field, const Real& rule);
void parse_value(const Setting& setting, ModuleSelection& field, Modules rule);
void parse_value(const Setting& setting, Json& field, AnyValue);
void parse_value(const Setting& setting, Json& field, TextMap);

// YAML on one line, which parse_value reads back as the same value; YAML 1.1 readers agree on it.
std::string print_value(const std::string& text);  // null when empty
std::string print_value(ByteSize size);
std::string print_value(const ResumeFrom& resume);
std::string print_value(const MicroBatchTokens& tokens);  // null for none
template <typename Enum>
requires std::is_enum_v<Enum> std::string print_value(Enum choice) { return print_value(std::string(word_of(choice))); }
std::string print_value(int64_t number);
std::string print_value(uint64_t number);
std::string print_value(double number);
std::string print_value(bool value);
std::string print_value(const std::vector<std::string>& list);
template <typename Enum>
requires std::is_enum_v<Enum> std::string print_value(const std::vector<Enum>& list) {
  std::vector<std::string> words;
  for (const Enum choice : list) words.push_back(word_of(choice));
  return print_value(words);
}
std::string print_value(const std::vector<int64_t>& list);
std::string print_value(const PatternMap<int64_t>& map);
std::string print_value(const PatternMap<double>& map);
std::string print_value(const std::array<double, 2>& pair);
std::string print_value(const ModuleSelection& selection);
std::string print_value(const Json& map);

// The value of a key as print_value writes it; null for an empty field, auto where the key knows that word.
template <typename Field, typename Rule>
std::string print_field(const Field& field, const Rule& rule) {
  if constexpr (requires { field.has_value(); }) {
    if (field) return print_value(*field);
    if constexpr (requires { rule.or_auto; }) return rule.or_auto ? "auto" : "null";
    return "null";
  } else {
    if constexpr (std::is_same_v<Field, int64_t>)
      if (rule.or_auto && field == kAutoNumber) return "auto";
    return print_value(field);
  }
}

// What print_value wrote, as JSON.
Json json_of_yaml(const std::string& text);

}  // namespace moraine
