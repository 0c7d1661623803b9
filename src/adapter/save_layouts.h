// save.layouts: a run's adapter in other layouts, beside adapter/.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "adapter/open_adapter.h"
#include "config/choices.h"

namespace moraine {

// Throws an input error that names save.layouts where a server among `layouts` would not read an adapter of
// `selection`.
void check_save_layouts(const std::vector<SaveLayout>& layouts, const std::string& family, const ModelLayout& layout,
                        const AdapterSelection& selection);

// Of an adapter in RUN/adapter: RUN/adapter-vllm for vllm. Those of `layouts` that are not there, peft's left out.
std::vector<SaveLayout> missing_save_layouts(const std::vector<SaveLayout>& layouts,
                                             const std::filesystem::path& adapter);

// Removes those folders: before another adapter is written to `adapter`.
void remove_save_layouts(const std::vector<SaveLayout>& layouts, const std::filesystem::path& adapter);

// Writes those of `layouts` that are not there from the one in `adapter`, each whole or not at all, and a line of it on
// the terminal. Throws as convert_adapter does.
void write_save_layouts(const std::vector<SaveLayout>& layouts, const std::string& family, const ModelLayout& layout,
                        const std::filesystem::path& adapter);

}  // namespace moraine
