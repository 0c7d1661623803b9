// Figures and JSON facts as a report words them. What a folder's files do not hold, or hold in another form, is no
// fact: nothing here throws for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace moraine {

// The value at "mesh.ep"; nullptr when there is none.
const Json* find_fact(const Json& facts, std::string_view path);
std::optional<double> number_fact(const Json& facts, std::string_view path);  // finite
std::optional<int64_t> count_fact(const Json& facts, std::string_view path);  // 0 … 2^53
std::string text_fact(const Json& facts, std::string_view path);              // "" when there is none

std::string whole_text(int64_t count);                // "48,210"
std::string loss_text(double loss);                   // "0.4120"
std::string figure_text(double value);                // four digits: "3.142", "0.0012", "12,345"
std::string percent_text(double part, double whole);  // "37.5 %"
std::string duration_text(double seconds);            // "412 ms", "12.3 s", "4 min 05 s", "3 h 05 min"
std::string time_text(const std::string& iso);        // "2026-07-31 14:03:22 UTC" of "2026-07-31T14:03:22Z"
std::string count_words(int64_t count, const char* one, const char* many);  // "1 step", "48,210 steps"

// HTML. Cells and values are HTML already.
struct ReportTable {
  struct Column {
    std::string name;
    bool is_number = false;
  };
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;
};
std::string table_html(const ReportTable& table);
// Names and values below each other; those with an empty value are left out.
std::string facts_html(const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace moraine
