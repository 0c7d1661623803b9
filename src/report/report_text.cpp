#include "report/report_text.h"

#include <fmt/format.h>

#include <cmath>

#include "formats/html.h"

namespace moraine {

const Json* find_fact(const Json& facts, std::string_view path) {
  const Json* at = &facts;
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('.')));
    if (!at->is_object() || !at->contains(key)) return nullptr;
    at = &at->at(key);
    path.remove_prefix(std::min(path.size(), key.size() + 1));
  }
  return at;
}

std::optional<double> number_fact(const Json& facts, std::string_view path) {
  const Json* fact = find_fact(facts, path);
  if (!fact || !fact->is_number() || !std::isfinite(fact->get<double>())) return std::nullopt;
  return fact->get<double>();
}

std::optional<int64_t> count_fact(const Json& facts, std::string_view path) {
  const auto number = number_fact(facts, path);
  if (!number || !find_fact(facts, path)->is_number_integer() || *number < 0 || *number > 0x1p53) return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::string text_fact(const Json& facts, std::string_view path) {
  const Json* fact = find_fact(facts, path);
  return fact && fact->is_string() ? fact->get<std::string>() : "";
}

std::string whole_text(int64_t count) {
  std::string digits = std::to_string(count);
  const int first = count < 0 ? 1 : 0;
  for (int at = static_cast<int>(digits.size()) - 3; at > first; at -= 3) digits.insert(at, ",");
  return digits;
}

std::string loss_text(double loss) {
  const double size = std::abs(loss);
  return size != 0 && (size < 0.001 || size >= 1e5) ? fmt::format("{:.3g}", loss) : fmt::format("{:.4f}", loss);
}

std::string figure_text(double value) {
  const double size = std::abs(value);
  if (size >= 10'000 && size < 1e15) return whole_text(std::llround(value));
  return size >= 1000 && size < 10'000 ? fmt::format("{:.0f}", value) : fmt::format("{:.4g}", value);
}

std::string percent_text(double part, double whole) {
  return fmt::format("{:.1f} %", whole > 0 ? 100 * part / whole : 0.0);
}

std::string duration_text(double seconds) {
  if (seconds < 1) return fmt::format("{:.3g} ms", 1e3 * seconds);
  if (seconds < 60) return fmt::format("{:.3g} s", seconds);
  if (!(seconds < 1e12)) return "";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  return s < 3600 ? fmt::format("{} min {:02} s", s / 60, s % 60)
                  : fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

std::string time_text(const std::string& iso) {
  if (iso.size() != 20 || iso[10] != 'T' || iso[19] != 'Z') return iso;
  return iso.substr(0, 10) + " " + iso.substr(11, 8) + " UTC";
}

std::string count_words(int64_t count, const char* one, const char* many) {
  return whole_text(count) + " " + (count == 1 ? one : many);
}

std::string table_html(const ReportTable& table) {
  const auto cell = [&](const char* tag, size_t column, const std::string& content) {
    const bool is_number = column < table.columns.size() && table.columns[column].is_number;
    return fmt::format("<{}{}>{}</{}>", tag, is_number ? " class=\"number\"" : "", content, tag);
  };
  std::string html = "<div class=\"scroll\"><table><thead><tr>";
  for (size_t i = 0; i < table.columns.size(); ++i) html += cell("th", i, escape_html(table.columns[i].name));
  html += "</tr></thead><tbody>\n";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) html += cell("td", i, row[i]);
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string facts_html(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string html;
  for (const auto& [name, value] : facts)
    if (!value.empty()) html += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", escape_html(name), value);
  return html.empty() ? "" : "<dl>\n" + html + "</dl>\n";
}

}  // namespace moraine
