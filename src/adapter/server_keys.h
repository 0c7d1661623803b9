// What each key of an adapter's files becomes in PEFT, vLLM or SGLang, whoever wrote them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "adapter/server_rules.h"
#include "models/model_layout.h"

namespace moraine {

// Keys that differ in numbers and in A or B alone, and share a fate.
struct KeyRow {
  std::string keys;   // with * for numbers and for A or B; of adapter_config.json its key
  std::string first;  // one of them
  int64_t count = 0;
  Fate fate = Fate::kRead;
  std::string says;  // the module that it goes to, or why it goes to none
};

struct ServerReport {
  std::vector<KeyRow> config;                  // keys of adapter_config.json that are missing or not followed
  std::vector<KeyRow> tensors;                 // of adapter_model.safetensors, in the order of their first keys
  int64_t read = 0, ignored = 0, refused = 0;  // rows of config and keys of tensors
  bool is_read() const { return ignored == 0 && refused == 0; }
};

// Of the adapter in `folder` for that model. Throws input errors for files that are missing or broken, and for a
// configuration that is no JSON object or has a pattern that is no regular expression.
ServerReport check_for_server(const Server& server, const std::string& family, const ModelLayout& layout,
                              const std::filesystem::path& folder);

// The fates of names (FamilyRules) by the rules alone, of modules that the model has and that are adapted wholly.
std::vector<NameRule> rules_of_names(const Server& server, const FamilyRules& rules,
                                     const std::vector<std::string>& names);

// What the program calls a target of target_modules: the end of its name, or Server::target_names of that.
std::string called_target(const Server& server, const std::string& name);

}  // namespace moraine
