#include "config/recipe_values.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "base/bytes.h"
#include "base/error.h"
#include "base/path.h"
#include "base/text.h"

namespace moraine {
namespace {

std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

Error mismatch(const Setting& setting, const YAML::Node& node, const std::string& expected) {
  std::string shown = node.IsScalar()     ? quote_text(node.Scalar())
                      : node.IsSequence() ? "a list"
                      : node.IsMap()      ? "a map"
                                          : "empty";
  return input_error(setting.where, fmt::format("key '{}' is {}, expected {}", setting.key, shown, expected));
}

std::string where_of(const Setting& setting) { return fmt::format("{}: key '{}'", setting.where, setting.key); }

// Quoted or tagged text is a string, whatever it looks like.
bool is_plain_scalar(const YAML::Node& node) { return node.IsScalar() && (node.Tag() == "?" || node.Tag().empty()); }

template <typename T>
std::optional<T> parse_whole(const YAML::Node& node) {
  if (!is_plain_scalar(node)) return std::nullopt;
  const std::string& text = node.Scalar();
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_real(const YAML::Node& node) {
  if (!is_plain_scalar(node)) return std::nullopt;
  std::string_view text = node.Scalar();
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

double parse_real_in(const Setting& setting, const YAML::Node& node, const Real& rule) {
  std::optional<double> value = parse_real(node);
  bool fits = value && (rule.above_least ? *value > rule.least : *value >= rule.least) && *value < rule.below;
  if (fits) return *value;
  throw mismatch(setting, node, expected_value(double{}, rule));
}

int64_t parse_whole_in(const Setting& setting, const YAML::Node& node, const Whole& rule, const std::string& expected) {
  const std::optional<int64_t> value = parse_whole<int64_t>(node);
  if (!value || *value < rule.least) throw mismatch(setting, node, expected);
  if (*value > rule.most) throw mismatch(setting, node, fmt::format("at most {}", rule.most));
  return *value;
}

// Calls add(pattern, node of its value) for each of a map, in the order in which they are written.
template <typename Add>
void parse_map(const Setting& setting, const std::string& expected, const Add& add) {
  if (!setting.node.IsMap()) throw mismatch(setting, setting.node, expected);
  std::set<std::string> seen;
  for (const auto& item : setting.node) {
    if (!item.first.IsScalar() || item.first.Scalar().empty()) throw mismatch(setting, item.first, expected);
    const std::string& pattern = item.first.Scalar();
    if (!seen.insert(pattern).second)
      throw input_error(setting.where, fmt::format("key '{}' holds {} twice", setting.key, quote_text(pattern)));
    add(pattern, item.second);
  }
}

template <typename T, typename Print>
std::string print_map(const PatternMap<T>& map, const Print& print) {
  std::string text;
  for (const auto& [pattern, value] : map)
    text += (text.empty() ? "" : ", ") + Json(pattern).dump() + ": " + print(value);
  return "{" + text + "}";
}

std::string parse_text(const Setting& setting, const YAML::Node& node, const std::string& expected) {
  if (!node.IsScalar() || node.Scalar().empty()) throw mismatch(setting, node, expected);
  return node.Scalar();
}

std::vector<std::string> parse_texts(const Setting& setting, const std::string& expected) {
  std::vector<std::string> list;
  if (!setting.node.IsSequence()) return {parse_text(setting, setting.node, expected)};
  for (const YAML::Node& item : setting.node) list.push_back(parse_text(setting, item, expected));
  return list;
}

// YAML's core schema. `budget` bounds what aliases of aliases can expand to.
Json to_json(const Setting& setting, const YAML::Node& node, int depth, int& budget) {
  if (depth > 64 || --budget < 0) throw input_error(setting.where, fmt::format("key '{}' is too large", setting.key));
  if (node.IsSequence()) {
    Json list = Json::array();
    for (const YAML::Node& item : node) list.push_back(to_json(setting, item, depth + 1, budget));
    return list;
  }
  if (node.IsMap()) {
    Json map = Json::object();
    for (const auto& item : node) {
      std::string name = parse_text(setting, item.first, "names as its keys");
      if (map.contains(name)) {
        throw input_error(setting.where, fmt::format("key '{}' holds {} twice", setting.key, quote_text(name)));
      }
      map[name] = to_json(setting, item.second, depth + 1, budget);
    }
    return map;
  }
  if (!node.IsScalar()) return nullptr;
  if (is_plain_scalar(node)) {
    std::string word = lower(node.Scalar());
    if (word == "true" || word == "false") return word == "true";
    if (auto whole = parse_whole<int64_t>(node)) return *whole;
    if (auto real = parse_real(node)) return *real;
  }
  return node.Scalar();
}

// Words that some YAML reader takes for something else than a string.
bool reads_as_string(const std::string& text) {
  static const std::set<std::string> kWords{"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", ".", "-"};
  bool safe = std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.' || c == '/';
  });
  bool begins_like_a_number = text[0] == '-' || (text[0] >= '0' && text[0] <= '9') ||
                              (text[0] == '.' && (text.size() == 1 || (text[1] != '/' && text[1] != '.')));
  return safe && !begins_like_a_number && !kWords.contains(lower(text));
}

}  // namespace

std::string expected_value(const std::string&, AnyValue) { return "a string"; }
std::string expected_value(const std::string&, PathValue) { return "a path"; }
std::string expected_value(ByteSize, AnyValue) { return "an amount of memory, for example 20GiB"; }
std::string expected_value(const ResumeFrom&, PathValue) { return "auto, never or a folder"; }
std::string expected_value(int64_t, const Whole& rule) {
  return fmt::format("{}a whole number of at least {}", rule.or_auto ? "auto or " : "", rule.least);
}
std::string expected_value(const std::optional<int64_t>&, const Whole& rule) { return expected_value(int64_t{}, rule); }
std::string expected_value(const MicroBatchTokens&, const Whole& rule) {
  return expected_value(std::optional<int64_t>(), rule);
}
std::string expected_value(uint64_t, AnyValue) { return "a whole number of at least 0"; }
std::string expected_value(double, const Real& rule) {
  const std::string below = std::isfinite(rule.below) ? fmt::format(" and below {}", rule.below) : "";
  return fmt::format("a number {} {}{}", rule.above_least ? "above" : "of at least", rule.least, below);
}
std::string expected_value(const std::optional<double>&, const Real& rule) { return expected_value(double{}, rule); }
std::string expected_value(const std::array<double, 2>&, const Real&) { return "a list of two numbers"; }
std::string expected_value(bool, AnyValue) { return "true or false"; }
std::string expected_value(const std::vector<std::string>&, AnyValue) { return "a list of strings"; }
std::string expected_value(const std::vector<std::string>&, PathValue) { return "a list of paths"; }
std::string expected_value(const std::vector<int64_t>&, const Whole& rule) {
  return fmt::format("a list of whole numbers of at least {}", rule.least);
}
std::string expected_value(const PatternMap<int64_t>&, const Whole& rule) {
  return fmt::format("a map of whole numbers of at least {}", rule.least);
}
std::string expected_value(const PatternMap<double>&, const Real& rule) {
  return fmt::format("a map of numbers {} {}", rule.above_least ? "above" : "of at least", rule.least);
}
std::string expected_value(const ModuleSelection&, Modules rule) {
  return std::string(rule.or_all_linear ? "all-linear, " : "") + "a list of names or a regular expression";
}
std::string expected_value(const Json&, AnyValue) { return "a map"; }
std::string expected_value(const Json&, TextMap) { return "a map of strings"; }
std::string expected_word(const std::vector<std::string>& words) { return "one of " + join_words(words); }

void parse_value(const Setting& setting, std::string& field, AnyValue) {
  field = parse_text(setting, setting.node, expected_value(field, AnyValue{}));
}

void parse_value(const Setting& setting, std::string& field, PathValue rule) {
  field = expand_home(parse_text(setting, setting.node, expected_value(field, rule)), where_of(setting));
}

void parse_value(const Setting& setting, ByteSize& field, AnyValue) {
  const auto bytes = setting.node.IsScalar() ? parse_bytes(setting.node.Scalar()) : std::nullopt;
  if (!bytes) throw mismatch(setting, setting.node, expected_value(field, AnyValue{}));
  field.bytes = *bytes;
}

void parse_value(const Setting& setting, ResumeFrom& field, PathValue rule) {
  std::string text = parse_text(setting, setting.node, expected_value(field, rule));
  field = {text == "auto"    ? ResumeFrom::Kind::kAuto
           : text == "never" ? ResumeFrom::Kind::kNever
                             : ResumeFrom::Kind::kFolder};
  if (field.kind == ResumeFrom::Kind::kFolder) parse_value(setting, field.folder, rule);
}

size_t parse_word(const Setting& setting, const std::vector<std::string>& words) {
  const auto found = std::find(words.begin(), words.end(), setting.node.IsScalar() ? setting.node.Scalar() : "");
  if (found == words.end()) throw mismatch(setting, setting.node, expected_word(words));
  return static_cast<size_t>(found - words.begin());
}

void parse_value(const Setting& setting, int64_t& field, const Whole& rule) {
  if (rule.or_auto && setting.node.IsScalar() && setting.node.Scalar() == "auto")
    field = kAutoNumber;
  else
    field = parse_whole_in(setting, setting.node, rule, expected_value(std::optional<int64_t>(), rule));
}

void parse_value(const Setting& setting, std::optional<int64_t>& field, const Whole& rule) {
  if (rule.or_auto && setting.node.IsScalar() && setting.node.Scalar() == "auto") {
    field.reset();
  } else {
    parse_value(setting, field.emplace(), rule);
  }
}

void parse_value(const Setting& setting, MicroBatchTokens& field, const Whole& rule) {
  std::optional<int64_t> tokens;
  parse_value(setting, tokens, rule);
  field = tokens ? MicroBatchTokens{MicroBatchTokens::Kind::kTokens, *tokens}
                 : MicroBatchTokens{MicroBatchTokens::Kind::kAuto};
}

void parse_value(const Setting& setting, uint64_t& field, AnyValue) {
  std::optional<uint64_t> value = parse_whole<uint64_t>(setting.node);
  if (!value) throw mismatch(setting, setting.node, expected_value(field, AnyValue{}));
  field = *value;
}

void parse_value(const Setting& setting, double& field, const Real& rule) {
  field = parse_real_in(setting, setting.node, rule);
}

void parse_value(const Setting& setting, std::optional<double>& field, const Real& rule) {
  field = parse_real_in(setting, setting.node, rule);
}

void parse_value(const Setting& setting, std::array<double, 2>& field, const Real& rule) {
  if (!setting.node.IsSequence() || setting.node.size() != 2)
    throw mismatch(setting, setting.node, expected_value(field, rule));
  for (size_t i = 0; i < 2; ++i) field[i] = parse_real_in(setting, setting.node[i], rule);
}

void parse_value(const Setting& setting, bool& field, AnyValue) {
  std::string word = is_plain_scalar(setting.node) ? lower(setting.node.Scalar()) : "";
  if (word == "true" || word == "yes" || word == "on") {
    field = true;
  } else if (word == "false" || word == "no" || word == "off") {
    field = false;
  } else {
    throw mismatch(setting, setting.node, expected_value(field, AnyValue{}));
  }
}

void parse_value(const Setting& setting, std::vector<std::string>& field, AnyValue rule) {
  field = parse_texts(setting, expected_value(field, rule));
}

void parse_value(const Setting& setting, std::vector<std::string>& field, PathValue rule) {
  field = parse_texts(setting, expected_value(field, rule));
  for (std::string& path : field) path = expand_home(path, where_of(setting));
}

void parse_value(const Setting& setting, std::vector<int64_t>& field, const Whole& rule) {
  const std::string expected = expected_value(field, rule);
  field.clear();
  if (!setting.node.IsSequence()) field.push_back(parse_whole_in(setting, setting.node, rule, expected));
  for (const YAML::Node& item : setting.node) field.push_back(parse_whole_in(setting, item, rule, expected));
}

void parse_value(const Setting& setting, PatternMap<int64_t>& field, const Whole& rule) {
  const std::string expected = expected_value(field, rule);
  field.clear();
  parse_map(setting, expected, [&](const std::string& pattern, const YAML::Node& value) {
    field.emplace_back(pattern, parse_whole_in(setting, value, rule, expected));
  });
}

void parse_value(const Setting& setting, PatternMap<double>& field, const Real& rule) {
  field.clear();
  parse_map(setting, expected_value(field, rule), [&](const std::string& pattern, const YAML::Node& value) {
    field.emplace_back(pattern, parse_real_in(setting, value, rule));
  });
}

void parse_value(const Setting& setting, ModuleSelection& field, Modules rule) {
  std::vector<std::string> texts = parse_texts(setting, expected_value(field, rule));
  field = {};
  if (setting.node.IsSequence()) {
    field.names = std::move(texts);
  } else if (rule.or_all_linear && lower(texts[0]) == "all-linear") {
    field.all_linear = true;
  } else {
    field.regex = texts[0];
  }
}

void parse_value(const Setting& setting, Json& field, AnyValue rule) {
  if (!setting.node.IsMap()) throw mismatch(setting, setting.node, expected_value(field, rule));
  int budget = 10000;
  field = to_json(setting, setting.node, 0, budget);
}

void parse_value(const Setting& setting, Json& field, TextMap rule) {
  Json map;
  parse_value(setting, map, AnyValue{});
  // Text as it is written: a version 1.10 is no number.
  for (const auto& item : setting.node) {
    if (!item.second.IsScalar()) throw mismatch(setting, item.second, expected_value(field, rule));
    map[item.first.Scalar()] = item.second.Scalar();
  }
  field = std::move(map);
}

std::string print_value(const std::string& text) {
  if (text.empty()) return "null";
  return reads_as_string(text) ? text : Json(text).dump();
}

std::string print_value(ByteSize size) {
  static constexpr const char* kUnits[] = {"", "KiB", "MiB", "GiB", "TiB", "PiB"};
  size_t unit = 0;
  for (; size.bytes > 0 && size.bytes % 1024 == 0 && unit + 1 < std::size(kUnits); ++unit) size.bytes /= 1024;
  return fmt::format("{}{}", size.bytes, kUnits[unit]);
}

std::string print_value(const ResumeFrom& resume) {
  switch (resume.kind) {
    case ResumeFrom::Kind::kAuto:
      return "auto";
    case ResumeFrom::Kind::kNever:
      return "never";
    case ResumeFrom::Kind::kFolder:
      return print_value(resume.folder);
  }
  MORAINE_ASSERT(false, "unknown kind of resume");
}

std::string print_value(const MicroBatchTokens& tokens) {
  switch (tokens.kind) {
    case MicroBatchTokens::Kind::kNone:
      return "null";
    case MicroBatchTokens::Kind::kAuto:
      return "auto";
    case MicroBatchTokens::Kind::kTokens:
      return print_value(tokens.tokens);
  }
  MORAINE_ASSERT(false, "unknown kind of micro-batch");
}

std::string print_value(int64_t number) { return std::to_string(number); }

std::string print_value(uint64_t number) { return std::to_string(number); }

std::string print_value(double number) {
  std::string text = fmt::format("{}", number);  // the shortest that reads back as the same
  // YAML 1.1 takes 1e-08 for a string.
  if (size_t e = text.find('e'); e != text.npos && text.find('.') == text.npos) text.insert(e, ".0");
  return text;
}

std::string print_value(bool value) { return value ? "true" : "false"; }

std::string print_value(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& item : list) text += (text.empty() ? "" : ", ") + print_value(item);
  return "[" + text + "]";
}

std::string print_value(const std::vector<int64_t>& list) { return fmt::format("[{}]", fmt::join(list, ", ")); }

std::string print_value(const PatternMap<int64_t>& map) {
  return print_map(map, [](int64_t value) { return print_value(value); });
}

std::string print_value(const PatternMap<double>& map) {
  return print_map(map, [](double value) { return print_value(value); });
}

std::string print_value(const std::array<double, 2>& pair) {
  return fmt::format("[{}, {}]", print_value(pair[0]), print_value(pair[1]));
}

std::string print_value(const ModuleSelection& selection) {
  if (selection.all_linear) return "all-linear";
  return selection.regex ? print_value(*selection.regex) : print_value(selection.names);
}

std::string print_value(const Json& map) { return map.dump(); }

Json json_of_yaml(const std::string& text) {
  int budget = 10000;
  return to_json(Setting{}, YAML::Load(text), 0, budget);
}

}  // namespace moraine
