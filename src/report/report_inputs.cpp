#include "report/report_inputs.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "report/report_text.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kLargestFile = 64 << 20;

// What `read` gives for a file of the folder, or a note why not.
template <typename Read>
void try_read(ReportInputs& inputs, const std::string& name, const std::string& what_is_missing, const Read& read) {
  std::error_code ignored;
  if (!fs::exists(inputs.folder / name, ignored)) {
    inputs.notes.push_back(fmt::format("There is no {}: {}.", name, what_is_missing));
    return;
  }
  try {
    read(read_text_file(inputs.folder / name, kLargestFile));
  } catch (const Error& error) {
    inputs.notes.push_back(fmt::format("{} cannot be read ({}): {}.", name, error.message, what_is_missing));
  }
}

Json parse_object(const std::string& text, const std::string& name) {
  Json json = parse_json(text, name);
  if (!json.is_object()) throw input_error(name, "is no JSON object");
  return json;
}

}  // namespace

int64_t ReportInputs::total_steps() const {
  if (const auto steps = count_fact(run, "steps")) return *steps;
  return recipe ? recipe->train.steps.value_or(0) : 0;
}

std::string ReportInputs::end() const {
  const Json* sessions = find_fact(run, "sessions");
  if (!sessions || !sessions->is_array() || sessions->empty()) return has_adapter ? "finished" : "";
  return text_fact(sessions->back(), "end");
}

std::string ReportInputs::model_name() const {
  std::string path = text_fact(run, "model.path");
  if (path.empty() && recipe) path = recipe->model.path;
  const fs::path normal = fs::path(path).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

ReportInputs read_report_inputs(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored)) throw input_error(folder.string(), "there is no such folder");
  if (!fs::exists(folder / "metrics.jsonl", ignored))
    throw input_error(folder.string(), "holds no metrics.jsonl", "name the folder of a run, save.dir");
  ReportInputs inputs;
  inputs.folder = folder;
  inputs.has_adapter = fs::exists(folder / "adapter" / "adapter_model.safetensors", ignored);
  try_read(inputs, "recipe.yaml", "what was asked for is not known", [&](const std::string& text) {
    inputs.recipe_text = text;
    inputs.recipe = read_recipe((folder / "recipe.yaml").string(), {});
  });
  try_read(inputs, "run.json", "the model, the mesh, the times and the way the run ended are not known",
           [&](const std::string& text) { inputs.run = parse_object(text, "run.json"); });
  try_read(inputs, "load.json", "what was loaded, and whether it was verified, is not known",
           [&](const std::string& text) { inputs.load = parse_object(text, "load.json"); });
  inputs.metrics = summarize_metrics(folder / "metrics.jsonl", inputs.recipe ? inputs.recipe->train.max_grad_norm : 0);
  return inputs;
}

}  // namespace moraine
