// The top of a report: what the run is, and what decides whether to trust it.
#pragma once

#include <string>

#include "report/report_inputs.h"

namespace moraine {

// HTML each.
std::string headline_html(const ReportInputs& inputs);
std::string checks_html(const ReportInputs& inputs);

// The run folder's own name.
std::string run_name(const ReportInputs& inputs);

}  // namespace moraine
