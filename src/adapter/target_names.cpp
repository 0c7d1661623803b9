#include "adapter/target_names.h"

#include <fmt/format.h>

#include <set>
#include <unordered_set>

#include "adapter/target_selection.h"

namespace moraine {
namespace {

// "c", "b.c" and "a.b.c" of "a.b.c".
std::vector<std::string> ends_of(const std::string& name) {
  std::vector<std::string> ends;
  for (size_t dot = name.rfind('.'); dot != name.npos && dot > 0; dot = name.rfind('.', dot - 1))
    ends.push_back(name.substr(dot + 1));
  ends.push_back(name);
  return ends;
}

}  // namespace

std::vector<std::string> linear_layers(const ModelLayout& layout, PeftClass peft_class) {
  const std::string suffix = ".weight";
  std::vector<std::string> names;
  for (int64_t layer = 0; layer < layout.shape().num_hidden_layers; ++layer) {
    for (const ParamSpec& param : layout.dense_spec(layer, no_checkpoint()).params) {
      if (param.shape.size() != 2 || !param.name.ends_with(suffix)) continue;
      const std::string local = param.name.substr(0, param.name.size() - suffix.size());
      names.push_back(module_name_in(peft_class, fmt::format("model.layers.{}.{}", layer, local)));
    }
  }
  return names;
}

TargetNames target_names(const std::vector<std::string>& adapted, const std::vector<std::string>& others) {
  std::set<std::string> targets, excluded;
  std::unordered_set<std::string> ends_of_adapted;
  for (const std::string& name : adapted) {
    targets.insert(last_component(name));
    for (std::string& end : ends_of(name)) ends_of_adapted.insert(std::move(end));
  }
  for (const std::string& name : others) {
    if (!targets.contains(last_component(name)) || ends_of_adapted.contains(name)) continue;
    for (const std::string& end : ends_of(name)) {
      if (ends_of_adapted.contains(end)) continue;
      excluded.insert(end);
      break;
    }
  }
  return {{targets.begin(), targets.end()}, {excluded.begin(), excluded.end()}};
}

}  // namespace moraine
