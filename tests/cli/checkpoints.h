// Small checkpoint folders for the tests, good ones and broken ones.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/temp_folder.h"

namespace moraine {

// A Qwen3-MoE config.json of a few thousand parameters.
Json tiny_config();

// A copy of the golden fp32 model that may be changed.
std::filesystem::path copy_golden_model(const TempFolder& into);

// A tokens file of one row.
std::filesystem::path write_tokens(const TempFolder& into, const std::string& name, const std::vector<int64_t>& ids);

// The names in `folder`, hidden ones too.
std::vector<std::string> names_in(const std::filesystem::path& folder);

}  // namespace moraine
