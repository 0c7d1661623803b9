#include "report/run_report.h"

#include "base/file.h"
#include "formats/html.h"
#include "report/report_charts.h"
#include "report/report_head.h"
#include "report/report_inputs.h"
#include "report/report_style.h"
#include "report/report_tables.h"

namespace moraine {

std::string report_html(const std::filesystem::path& folder) {
  const ReportInputs inputs = read_report_inputs(folder);
  return "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\">\n<head>\n<meta "
         "charset=\"utf-8\"/>\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
         escape_html(run_name(inputs)) + " · moraine</title>\n<style>" + kReportStyle + "</style>\n</head>\n<body>\n" +
         headline_html(inputs) + checks_html(inputs) + charts_html(inputs) + figures_html(inputs) +
         adapter_html(inputs) + sessions_html(inputs.run) + loading_html(inputs.load) + recipe_html(inputs) +
         "</body>\n</html>\n";
}

void write_run_report(const std::filesystem::path& folder) {
  write_file_atomic(folder / "report.html", report_html(folder));
}

}  // namespace moraine
