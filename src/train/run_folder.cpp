#include "train/run_folder.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/process.h"
#include "dist/launch.h"

namespace moraine {
namespace fs = std::filesystem;

bool RunFolder::is_finished() const { return fs::exists(adapter() / "adapter_model.safetensors"); }

void RunFolder::prepare(const SaveConfig& config) const {
  std::error_code error;
  if (config.resume == "never" && fs::exists(dir_) && (!fs::is_directory(dir_) || !fs::is_empty(dir_, error))) {
    throw input_error("save.dir", dir_.string() + " is not empty", "choose another folder, or save.resume: auto");
  }
  fs::create_directories(dir_, error);
  if (error) throw input_error("save.dir", "cannot make " + dir_.string() + ": " + error.message(), "choose another folder");
}

void RunFolder::write_recipe(const Recipe& recipe) const { write_file_atomic(dir_ / "recipe.yaml", recipe_to_yaml(recipe)); }

OrderedJson load_report_json(const LoadReport& report, const std::string& mode, int64_t rank, uint64_t shard_bytes) {
  return {{"rank", rank},
          {"host", host_name()},
          {"mode", mode},
          {"bytes_read", report.bytes_read},
          {"bytes_verify_read", report.bytes_verify_read},
          {"bytes_received", 0},
          {"seconds", report.seconds + report.verify_seconds},
          {"peak_rss_bytes", peak_resident_bytes()},
          {"shard_bytes", shard_bytes},
          {"verified", report.verified}};
}

void RunFolder::write_load_report(const std::vector<OrderedJson>& ranks) const {
  write_file_atomic(dir_ / "load.json", OrderedJson{{"ranks", ranks}}.dump(2) + "\n");
}

}  // namespace moraine
