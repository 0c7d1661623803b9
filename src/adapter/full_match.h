// Python's re.fullmatch, for the patterns of PEFT's configurations.
#pragma once

#include <memory>
#include <string>

namespace moraine {

class FullMatch {
 public:
  // Throws an input error that names `where` (a recipe key, a file) for a pattern that is no regular expression.
  FullMatch(std::string pattern, std::string where);
  // Throws one, too, where the pattern takes too long for `text`.
  bool operator()(const std::string& text) const;

 private:
  std::string pattern_, where_;
  std::shared_ptr<void> code_;
};

}  // namespace moraine
