#include "cli/adapter_flags.h"

#include <charconv>
#include <cmath>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace moraine {
namespace {

WeightedAdapter weighted_adapter(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == text.npos || equals == 0) return {text};
  double weight = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + equals + 1, end, weight);
  if (rest != end || error == std::errc::invalid_argument) return {text};
  if (error != std::errc() || !std::isfinite(weight))
    throw input_error("--adapter", quote_text(text) + " has a weight that is not finite", "DIR=0.5, for example");
  return {text.substr(0, equals), weight};
}

}  // namespace

std::vector<WeightedAdapter> weighted_adapters(const CommandArgs& args) {
  std::vector<WeightedAdapter> adapters;
  for (const std::string& text : args.adapters) adapters.push_back(weighted_adapter(text));
  return adapters;
}

}  // namespace moraine
