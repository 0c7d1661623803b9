#include "config/recipe_reference.h"

#include <fmt/format.h>

#include <cmath>
#include <vector>

#include "config/recipe_keys.h"
#include "config/recipe_values.h"

namespace moraine {
namespace {

OrderedJson text_schema() { return {{"type", "string"}, {"minLength", 1}}; }

// One text or a list of them.
OrderedJson texts_schema() { return {{"type", {"array", "string"}}, {"items", text_schema()}, {"minLength", 1}}; }

// One of a few words, which an editor then offers, or a value of `other`.
OrderedJson or_word(const char* word, OrderedJson other) {
  return {{"anyOf", {OrderedJson{{"enum", OrderedJson::array({word})}}, std::move(other)}}};
}

template <typename Rule>
OrderedJson schema_of(const std::string&, const Rule&) {
  return text_schema();
}

template <typename Enum>
requires std::is_enum_v<Enum> OrderedJson schema_of(Enum, AnyValue) { return {{"enum", words_of(Enum{})}}; }

OrderedJson schema_of(ByteSize, AnyValue) {
  return {{"type", {"string", "integer"}}, {"minimum", 0}, {"pattern", "^[0-9.]+ *([bB]|[kKmMgGtTpP]([iI]?[bB])?)?$"}};
}

OrderedJson schema_of(const ResumeFrom&, PathValue) {
  return {{"anyOf", {OrderedJson{{"enum", {"auto", "never"}}}, text_schema()}}};
}

OrderedJson schema_of(int64_t, const Whole& rule) {
  const OrderedJson number = {{"type", "integer"}, {"minimum", rule.least}, {"maximum", rule.most}};
  return rule.or_auto ? or_word("auto", number) : number;
}

OrderedJson schema_of(const std::optional<int64_t>&, const Whole& rule) { return schema_of(int64_t{}, rule); }

OrderedJson schema_of(const MicroBatchTokens&, const Whole& rule) { return schema_of(std::optional<int64_t>(), rule); }

OrderedJson schema_of(uint64_t, AnyValue) { return {{"type", "integer"}, {"minimum", 0}}; }

OrderedJson schema_of(double, const Real& rule) {
  OrderedJson schema{{"type", "number"}, {rule.above_least ? "exclusiveMinimum" : "minimum", rule.least}};
  if (std::isfinite(rule.below)) schema["exclusiveMaximum"] = rule.below;
  return schema;
}

OrderedJson schema_of(const std::optional<double>&, const Real& rule) { return schema_of(double{}, rule); }

OrderedJson schema_of(const std::array<double, 2>&, const Real& rule) {
  return {{"type", "array"}, {"items", schema_of(double{}, rule)}, {"minItems", 2}, {"maxItems", 2}};
}

OrderedJson schema_of(bool, AnyValue) { return {{"type", "boolean"}}; }

template <typename Rule>
OrderedJson schema_of(const std::vector<std::string>&, const Rule&) {
  return texts_schema();
}

template <typename Enum>
requires std::is_enum_v<Enum> OrderedJson schema_of(const std::vector<Enum>&, AnyValue) {
  return {{"type", {"array", "string"}}, {"items", {{"enum", words_of(Enum{})}}}};
}

OrderedJson schema_of(const std::vector<int64_t>&, const Whole& rule) {
  OrderedJson schema = schema_of(int64_t{}, rule);
  schema["items"] = schema;
  schema["type"] = {"array", "integer"};
  return schema;
}

template <typename T, typename Rule>
OrderedJson schema_of(const PatternMap<T>&, const Rule& rule) {
  return {{"type", "object"}, {"additionalProperties", schema_of(T{}, rule)}};
}

OrderedJson schema_of(const ModuleSelection&, Modules rule) {
  return rule.or_all_linear ? or_word("all-linear", texts_schema()) : texts_schema();
}

OrderedJson schema_of(const Json&, AnyValue) { return {{"type", "object"}}; }

OrderedJson schema_of(const Json&, TextMap) {
  return {{"type", "object"}, {"additionalProperties", {{"type", {"string", "number", "boolean"}}}}};
}

// null stands for the default everywhere.
void allow_null(OrderedJson& schema) {
  if (schema.contains("anyOf")) return allow_null(schema["anyOf"][0]);
  OrderedJson& allowed = schema.contains("enum") ? schema["enum"] : schema["type"];
  if (!allowed.is_array()) allowed = OrderedJson::array({allowed});
  allowed.push_back(schema.contains("enum") ? OrderedJson() : OrderedJson("null"));
}

struct KeyReference {
  std::string key, section, name;
  std::string value;          // what it takes, in words
  std::string default_value;  // as YAML; "null": none
  std::string doc;
  OrderedJson schema;
};

std::vector<KeyReference> all_keys() {
  std::vector<KeyReference> keys;
  const Recipe defaults;
  visit_recipe(defaults, [&](const std::string& key, const auto& field, const auto& rule, const char* doc) {
    const size_t dot = key.find('.');
    keys.push_back({key, key.substr(0, dot), key.substr(dot + 1), expected_value(field, rule), print_field(field, rule),
                    doc, schema_of(field, rule)});
  });
  return keys;
}

}  // namespace

std::string recipe_text(const std::string& key) {
  std::vector<KeyReference> keys = all_keys();
  if (!key.empty()) {
    std::erase_if(keys, [&](const KeyReference& k) { return k.key != key && k.section != key; });
    if (keys.empty()) throw unknown_recipe_key("recipe", key);
  }
  const auto setting = [](const KeyReference& k) {
    return k.key + (k.default_value == "null" ? "" : "=" + k.default_value);
  };
  std::string text, section;
  for (const KeyReference& k : keys) {
    if (!section.empty() && section != k.section) text += "\n";
    section = k.section;
    text += fmt::format("{:<36}  {}\n    {}\n", setting(k), k.value, k.doc);
  }
  return text;
}

std::string recipe_markdown() {
  std::string text =
      "# Recipe keys\n\n"
      "Written by `moraine recipe --markdown > docs/recipe.md`; a test compares the two.\n\n"
      "A recipe is a YAML or JSON file with the sections below. Every key can also be set on the command line as\n"
      "`section.key=value`, which overrides the file; `null` sets a key back to its default. `~` in paths is the home "
      "folder.\n"
      "`moraine recipe` prints the same list, `moraine recipe SECTION` or `moraine recipe SECTION.KEY` a part of "
      "it.\n\n"
      "Editors that know JSON schemas complete and check recipes: write the schema with `moraine recipe --schema > "
      "recipe.schema.json`\n"
      "and begin the recipe with `# yaml-language-server: $schema=recipe.schema.json`.\n";
  std::string section;
  for (const KeyReference& k : all_keys()) {
    if (section != k.section) {
      section = k.section;
      text += fmt::format("\n## {}\n\n| key | default | takes | meaning |\n|---|---|---|---|\n", section);
    }
    const std::string shown = k.default_value == "null" ? "" : "`" + k.default_value + "`";
    text += fmt::format("| `{}` | {} | {} | {} |\n", k.key, shown, k.value, k.doc);
  }
  return text;
}

OrderedJson recipe_schema() {
  const auto object = [] {
    return OrderedJson{{"type", "object"}, {"additionalProperties", false}, {"properties", OrderedJson::object()}};
  };
  OrderedJson schema{{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "moraine recipe"}};
  schema.update(object());
  for (KeyReference& k : all_keys()) {
    OrderedJson& section = schema["properties"][k.section];
    if (section.is_null()) {
      section = object();
      allow_null(section);
    }
    OrderedJson& key = section["properties"][k.name];
    key = std::move(k.schema);
    allow_null(key);
    if (k.default_value != "null") key["default"] = json_of_yaml(k.default_value);
    key["description"] = k.doc;
  }
  return schema;
}

}  // namespace moraine
