// The lower part of a report: figures, the adapter, loading, the recipe.
#pragma once

#include <string>

#include "report/report_inputs.h"

namespace moraine {

// HTML each; "" where the run has no such facts.
std::string figures_html(const ReportInputs& inputs);
std::string sessions_html(const Json& run);
std::string adapter_html(const ReportInputs& inputs);
std::string loading_html(const Json& load);
std::string recipe_html(const ReportInputs& inputs);

}  // namespace moraine
