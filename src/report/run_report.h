// report.html: a run's facts and figures on one page that needs nothing else, for who must say whether to trust it.
#pragma once

#include <filesystem>
#include <string>

namespace moraine {

// The page, well-formed XML too; depends on nothing but the folder's files: metrics.jsonl, run.json, load.json,
// recipe.yaml. Throws an input error when `folder` is no run's; what is missing or damaged in it otherwise is said on
// the page.
std::string report_html(const std::filesystem::path& folder);

// Writes it to report.html in the folder, whole or not at all. Throws a run error that names the file.
void write_run_report(const std::filesystem::path& folder);

}  // namespace moraine
