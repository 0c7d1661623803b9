// Values of a recipe: from YAML nodes to typed fields and back to YAML text. Used by recipe.cpp only.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "config/recipe_keys.h"

namespace moraine {

// What the user wrote for one key, and where ("recipe.yaml", "override 'train.steps=5'").
struct Setting {
  std::string key;
  YAML::Node node;
  std::string where;
};

// Sets the field. Throw input errors that name key, value and what is expected.
void parse_value(const Setting& setting, std::string& field, AnyValue);
void parse_value(const Setting& setting, std::string& field, PathValue);
void parse_value(const Setting& setting, std::string& field, const OneOf& rule);
void parse_value(const Setting& setting, int64_t& field, const Whole& rule);
void parse_value(const Setting& setting, std::optional<int64_t>& field, const Whole& rule);
void parse_value(const Setting& setting, uint64_t& field, AnyValue);
void parse_value(const Setting& setting, double& field, const Real& rule);
void parse_value(const Setting& setting, std::optional<double>& field, const Real& rule);
void parse_value(const Setting& setting, std::array<double, 2>& field, const Real& rule);
void parse_value(const Setting& setting, bool& field, AnyValue);
void parse_value(const Setting& setting, std::vector<std::string>& field, AnyValue);  // one string is a list of one
void parse_value(const Setting& setting, std::vector<std::string>& field, PathValue);
void parse_value(const Setting& setting, ModuleSelection& field, AnyValue);
void parse_value(const Setting& setting, Json& field, AnyValue);  // a map

// YAML on one line, which parse_value reads back as the same value; YAML 1.1 readers agree on it.
std::string print_value(const std::string& text);  // null when empty
std::string print_value(int64_t number);
std::string print_value(uint64_t number);
std::string print_value(double number);
std::string print_value(bool value);
std::string print_value(const std::vector<std::string>& list);
std::string print_value(const std::array<double, 2>& pair);
std::string print_value(const ModuleSelection& selection);
std::string print_value(const Json& map);

}  // namespace moraine
