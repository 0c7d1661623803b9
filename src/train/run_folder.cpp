#include "train/run_folder.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"

namespace moraine {
namespace fs = std::filesystem;

bool RunFolder::is_finished() const { return fs::exists(adapter() / "adapter_model.safetensors"); }

void RunFolder::check_unused(const SaveConfig& config) const {
  std::error_code error;
  if (config.resume == "never" && fs::exists(dir_) && (!fs::is_directory(dir_) || !fs::is_empty(dir_, error))) {
    throw input_error("save.dir", dir_.string() + " is not empty", "choose another folder, or save.resume: auto");
  }
}

void RunFolder::prepare() const {
  std::error_code error;
  fs::create_directories(dir_, error);
  if (error) throw input_error("save.dir", "cannot make " + dir_.string() + ": " + error.message(), "choose another folder");
}

void RunFolder::write_recipe(const Recipe& recipe) const { write_file_atomic(dir_ / "recipe.yaml", recipe_to_yaml(recipe)); }

void RunFolder::write_load_report(const std::vector<OrderedJson>& ranks) const {
  write_file_atomic(dir_ / "load.json", OrderedJson{{"ranks", ranks}}.dump(2) + "\n");
}

}  // namespace moraine
