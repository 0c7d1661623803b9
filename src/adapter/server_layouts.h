// In which layout a server reads an adapter (adapter/server_rules). No test runs a server.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "adapter/convert_adapter.h"
#include "config/choices.h"

namespace moraine {

struct ServerLayout {
  AdapterFormat format;
  std::string version;    // "vLLM 0.33.0"
  std::string arguments;  // of its command, up to the adapter's folder
};

// Of "vllm" or "sglang". Throws an input error that names the adapter's folder where the server does not read the
// family's adapters, or not this one.
ServerLayout server_layout(const std::string& server, const std::string& family, const ModelLayout& layout,
                           const std::filesystem::path& folder, const AdapterSelection& selection);

struct ChosenLayout {
  AdapterFormat format;
  std::string start;  // of a server: "vLLM 0.33.0: --enable-lora … NAME="
};

// Throws as server_layout does.
ChosenLayout choose_layout(SaveLayout wanted, const std::string& family, const ModelLayout& layout,
                           const std::filesystem::path& folder, const AdapterSelection& selection);

}  // namespace moraine
