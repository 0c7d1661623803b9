#include "adapter/save_layouts.h"

#include "adapter/server_layouts.h"
#include "base/file.h"
#include "base/log.h"
#include "base/path.h"

namespace moraine {
namespace {

std::filesystem::path layout_folder(const std::filesystem::path& adapter, SaveLayout layout) {
  return adapter.parent_path() / (adapter.filename().string() + "-" + word_of(layout));
}

}  // namespace

void check_save_layouts(const std::vector<SaveLayout>& layouts, const std::string& family, const ModelLayout& layout,
                        const AdapterSelection& selection) {
  for (const SaveLayout wanted : layouts) choose_layout(wanted, family, layout, "save.layouts", selection);
}

std::vector<SaveLayout> missing_save_layouts(const std::vector<SaveLayout>& layouts,
                                             const std::filesystem::path& adapter) {
  std::vector<SaveLayout> missing;
  for (const SaveLayout wanted : layouts)
    if (wanted != SaveLayout::kPeft && !path_exists(layout_folder(adapter, wanted) / "adapter_model.safetensors"))
      missing.push_back(wanted);
  return missing;
}

void remove_save_layouts(const std::vector<SaveLayout>& layouts, const std::filesystem::path& adapter) {
  for (const SaveLayout wanted : layouts)
    if (wanted != SaveLayout::kPeft && path_exists(layout_folder(adapter, wanted)))
      remove_folder(layout_folder(adapter, wanted));
}

void write_save_layouts(const std::vector<SaveLayout>& layouts, const std::string& family, const ModelLayout& layout,
                        const std::filesystem::path& adapter) {
  const std::vector<SaveLayout> missing = missing_save_layouts(layouts, adapter);
  if (missing.empty()) return;
  const AdapterSelection selection = read_adapter_selection(layout, adapter);
  for (const SaveLayout wanted : missing) {
    const std::filesystem::path folder = layout_folder(adapter, wanted);
    const ChosenLayout chosen = choose_layout(wanted, family, layout, adapter, selection);
    convert_adapter(layout, adapter, selection, chosen.format, folder);
    log_info("Wrote {}{}", folder.string(), chosen.start.empty() ? "" : ", for " + chosen.start + folder.string());
  }
}

}  // namespace moraine
