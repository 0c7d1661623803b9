#include "run/run_folder.h"

#include "base/error.h"
#include "base/json.h"

namespace moraine {
namespace fs = std::filesystem;

bool RunFolder::is_finished() const {
  std::error_code cannot_look;  // prepare() says why
  return fs::exists(adapter() / "adapter_model.safetensors", cannot_look);
}

void RunFolder::check_unused(const std::string& hint) const {
  std::error_code error;
  if (fs::exists(dir_, error) && (!fs::is_directory(dir_, error) || !fs::is_empty(dir_, error)))
    throw input_error("save.dir", dir_.string() + " is not empty", hint);
}

FileLock RunFolder::prepare() const {
  try {
    make_folders(dir_);
  } catch (const Error& error) {
    throw input_error("save.dir", error.where + ": " + error.message, "choose another folder");
  } catch (const fs::filesystem_error& error) {
    throw input_error("save.dir", dir_.string() + ": " + error.code().message(), "choose another folder");
  }
  FileLock lock(dir_ / ".lock");
  if (lock.taken_by_another())
    throw input_error("save.dir", dir_.string() + ": another run is writing there",
                      "wait until it has ended, or choose another folder");
  remove_leftovers(dir_);
  remove_leftovers(checkpoints());
  return lock;
}

void RunFolder::write_recipe(const Recipe& recipe) const {
  write_file_atomic(dir_ / "recipe.yaml", recipe_to_yaml(recipe));
}

void RunFolder::write_load_report(const std::vector<OrderedJson>& ranks) const {
  write_file_atomic(dir_ / "load.json", OrderedJson{{"ranks", ranks}}.dump(2) + "\n");
}

}  // namespace moraine
