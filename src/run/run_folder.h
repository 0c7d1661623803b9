// The folder of a run (save.dir): what lies where, and whether a new run may use it.
#pragma once

#include <filesystem>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "config/recipe.h"

namespace moraine {

class RunFolder {
 public:
  explicit RunFolder(const std::filesystem::path& dir) : dir_(dir) {}

  const std::filesystem::path& path() const { return dir_; }
  std::filesystem::path adapter() const { return dir_ / "adapter"; }
  std::filesystem::path metrics() const { return dir_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return dir_ / "tensorboard"; }
  std::filesystem::path checkpoints() const { return dir_ / "checkpoints"; }

  // Whether an earlier run ended here.
  bool is_finished() const;
  // Throws an input error, with `hint`, when the folder holds anything. Writes nothing.
  void check_unused(const std::string& hint) const;
  // Makes the folder, or removes what a killed run has left half-written in it. Throws an input error where another run
  // is at work there: not as long as the result lives.
  [[nodiscard]] FileLock prepare() const;
  void write_recipe(const Recipe& recipe) const;
  // load.json: what each rank read. `ranks`: gather_load_reports.
  void write_load_report(const std::vector<OrderedJson>& ranks) const;

 private:
  std::filesystem::path dir_;
};

}  // namespace moraine
