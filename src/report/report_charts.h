// The charts of a report.
#pragma once

#include <string>

#include "report/report_inputs.h"

namespace moraine {

// HTML; "" where no step is done.
std::string charts_html(const ReportInputs& inputs);

// The mean loss of the first and of the last steps: what is looked at to say whether training helped.
inline constexpr double kMeanShare = 0.05;  // of all steps

}  // namespace moraine
