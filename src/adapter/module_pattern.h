// Values by patterns over modules' names, as PEFT's rank_pattern gives them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "adapter/full_match.h"
#include "config/recipe.h"

namespace moraine {

// The first pattern counts that matches a whole name or what follows one of its dots.
template <typename T>
class ModulePattern {
 public:
  // Throws an input error that names `where` for a pattern that is no regular expression.
  ModulePattern(const PatternMap<T>& map, const std::string& where) : map_(map) {
    for (const auto& [key, value] : map) matches_.emplace_back("(.*\\.)?(" + key + ")", where);
  }
  // The place of that pattern in the map.
  std::optional<size_t> find(const std::string& module) const {
    for (size_t i = 0; i < matches_.size(); ++i)
      if (matches_[i](module)) return i;
    return std::nullopt;
  }
  T of(const std::string& module, T otherwise) const {
    const auto found = find(module);
    return found ? map_[*found].second : otherwise;
  }

 private:
  PatternMap<T> map_;
  std::vector<FullMatch> matches_;
};

}  // namespace moraine
