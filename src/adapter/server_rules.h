// What becomes of an adapter's keys in PEFT, vLLM and SGLang, for each family: data, read in the source of the versions
// named there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adapter/convert_adapter.h"
#include "config/hf_config.h"

namespace moraine {

// What a program does about one key.
enum class Fate {
  kRead,
  kIgnored,  // loads, and does nothing
  kRefused,  // the program refuses the whole adapter, or does not start with it
};

struct NameRule {
  std::string pattern;  // of a whole name
  Fate fate;
  std::string says;  // the module it goes to, or why it goes to none
};

// For a family. A name is what a key has between the prefix and ".lora_A.weight".
struct FamilyRules {
  std::string family;
  std::vector<AdapterFormat> formats;     // that are read; empty: none. The first one is what export writes.
  std::vector<std::string> stems;         // that a name may have before "layers.3."; empty: anything
  std::vector<NameRule> in_layer;         // of what follows "layers.3.": the first one that matches counts
  std::vector<NameRule> outside = {};     // of names without "layers.3."
  std::vector<std::string> targets = {};  // that target_modules may name, as Server::target_names has them; empty: any
  std::string arguments = {};             // of the server's command, beside its own
};

struct ConfigRule {
  std::string key;
  Fate fate;
  std::string says;
};

// An adapter's key as a program reads it.
enum class KeyForm {
  kPeft,    // base_model.model.NAME.lora_A.weight, nothing else
  kVllm,    // the same; the prefix may be missing
  kSglang,  // layers.3.NAME and lora_A somewhere in the key; what has no lora_A is taken for a lora_B
};

enum class Experts {
  kEach,       // each projection by itself
  kWhole,      // of a layer all experts' three projections, or none
  kByTargets,  // where target_modules names gate_up_proj and down_proj (Server::target_names), else ignored
};

struct Server {
  std::string name, version;
  std::string arguments;       // of its command, the rank to reserve for {}; empty: it has none
  std::vector<int64_t> ranks;  // that can be reserved; empty: any
  KeyForm form;
  // Of a name that no rule of the family knows; of one that a rule reads, but of a module that this model does not
  // have; of one factor without the other.
  NameRule unknown, absent, half;
  std::vector<std::string> needed;       // keys of adapter_config.json
  std::vector<ConfigRule> config;        // of keys that are set there to anything but false, null, "none" or nothing
  std::vector<std::string> plain_inits;  // texts of init_lora_weights that leave the base model as it is; empty: all
  Experts experts = Experts::kEach;
  bool peft_targets = false;  // modules that the configuration does not target are not there
  // Ends of names: the first is adapted only where the second, beside it, is.
  std::vector<std::pair<std::string, std::string>> companions = {};
  std::map<std::string, std::string> target_names = {};  // what the ends of target_modules are called there
  std::vector<FamilyRules> families;
};

// "peft", "vllm" and "sglang".
const std::vector<Server>& servers();
// The family of a model as FamilyRules name it: the registry's, with " (text class)" behind it where a server reads
// adapters of a family's text class otherwise.
std::string served_family(const HfConfig& config);

// The family's, else those of its name without "(text class)"; null: of no model that the program reads adapters for.
const FamilyRules* rules_for(const Server& server, const std::string& family);

}  // namespace moraine
