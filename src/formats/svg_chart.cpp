#include "formats/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "formats/html.h"

namespace moraine {
namespace {

constexpr double kLeft = 52, kRight = 14, kTop = 22, kBottom = 34;  // around the plot, for labels

// Where values lie on the page.
struct Axis {
  double lo = 0, hi = 1;        // values at the ends
  double at_lo = 0, at_hi = 1;  // coordinates of those
  bool log = false;
  std::vector<double> ticks;
  double step = 1;  // between ticks

  bool shows(double value) const { return !log || value > 0; }
  double operator()(double value) const {
    const double share = log ? std::log(value / lo) / std::log(hi / lo) : (value - lo) / (hi - lo);
    return at_lo + std::clamp(share, 0.0, 1.0) * (at_hi - at_lo);
  }
};

struct Range {
  double lo = 0, hi = 0;
  bool empty = true;
  void add(double value) {
    lo = empty ? value : std::min(lo, value);
    hi = empty ? value : std::max(hi, value);
    empty = false;
  }
};

Axis y_axis(const Chart& chart) {
  Axis axis;
  axis.log = chart.scale == Chart::Scale::kLog;
  axis.at_lo = chart.height - kBottom;
  axis.at_hi = kTop;
  Range range;
  if (chart.scale == Chart::Scale::kFromZero) range.add(0);
  for (const Curve& curve : chart.curves)
    for (const SeriesPoint& point : curve.points)
      if (axis.shows(point.y)) range.add(point.y);
  for (double limit : chart.limits)
    if (axis.shows(limit)) range.add(limit);
  if (range.empty) range = axis.log ? Range{1, 10, false} : Range{0, 1, false};
  axis.ticks = axis.log ? log_ticks(range.lo, range.hi) : nice_ticks(range.lo, range.hi, chart.height > 220 ? 6 : 4);
  axis.lo = axis.ticks.front();
  axis.hi = axis.ticks.back();
  axis.step = axis.ticks[1] - axis.ticks[0];
  return axis;
}

// Spans the points themselves: a run's first and last step lie at the edges.
Axis x_axis(const Chart& chart) {
  Axis axis;
  axis.at_lo = kLeft;
  axis.at_hi = chart.width - kRight;
  Range range;
  for (const Curve& curve : chart.curves)
    for (const SeriesPoint& point : curve.points) range.add(point.x);
  if (range.empty) range = {0, 1, false};
  axis.lo = range.lo;
  axis.hi = range.hi;
  if (range.lo == range.hi) {
    axis.lo -= 1;
    axis.hi += 1;
    axis.ticks = {range.lo};
    return axis;
  }
  const std::vector<double> ticks = nice_ticks(range.lo, range.hi, chart.width / 90, /*smallest_step=*/1);
  axis.step = ticks[1] - ticks[0];
  for (double tick : ticks)
    if (tick >= axis.lo && tick <= axis.hi) axis.ticks.push_back(tick);
  return axis;
}

std::string line(const char* kind, double x1, double y1, double x2, double y2) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>", kind, x1, y1, x2,
                     y2);
}

std::string text(const char* kind, double x, double y, const char* anchor, const std::string& words) {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", kind, x, y, anchor,
                     escape_html(words));
}

std::string draw(const Curve& curve, const Axis& x, const Axis& y) {
  const char* kind = curve.kind == CurveKind::kRaw ? "raw" : curve.kind == CurveKind::kMean ? "mean" : "mark";
  std::vector<SeriesPoint> shown;
  for (const SeriesPoint& point : curve.points)
    if (y.shows(point.y)) shown.push_back(point);
  std::string svg;
  if (curve.kind == CurveKind::kMark || shown.size() == 1) {
    const double radius = shown.size() > 60 ? 1.6 : 3;
    for (const SeriesPoint& point : shown)
      svg += fmt::format("<circle class=\"{} dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\"/>", kind, x(point.x),
                         y(point.y), radius);
    return svg;
  }
  for (const SeriesPoint& point : shown)
    svg += fmt::format("{}{:.1f},{:.1f}", svg.empty() ? "" : " ", x(point.x), y(point.y));
  return svg.empty() ? "" : fmt::format("<polyline class=\"{}\" points=\"{}\"/>", kind, svg);
}

double step_near(double size) {
  const double power = std::pow(10, std::floor(std::log10(size)));
  for (double factor : {1.0, 2.0, 5.0})
    if (size <= factor * power * 1.000001) return factor * power;
  return 10 * power;
}

}  // namespace

std::vector<double> nice_ticks(double lo, double hi, int wanted, double smallest_step) {
  // Ranges that a double's digits hardly tell apart are drawn as one value.
  const double size = std::max(std::abs(lo), std::abs(hi));
  if (hi - lo <= 1e-9 * size) {
    const double half = size > 0 ? 0.1 * size : 0.5;
    lo = lo >= 0 ? std::max(0.0, lo - half) : lo - half;
    hi += half;
  }
  const double step = std::max(smallest_step, step_near((hi - lo) / std::max(1, wanted)));
  const double first = std::floor(lo / step + 1e-9), last = std::max(first + 1, std::ceil(hi / step - 1e-9));
  std::vector<double> ticks;
  for (double i = first; i <= last && ticks.size() < 100; ++i) ticks.push_back(i * step);
  return ticks;
}

std::vector<double> log_ticks(double lo, double hi) {
  const int first = static_cast<int>(std::floor(std::log10(lo) + 1e-9));
  const int last = std::max(first + 1, static_cast<int>(std::ceil(std::log10(hi) - 1e-9)));
  const int decades = last - first, every = (decades + 5) / 6;
  std::vector<double> ticks;
  for (int power = first; power < last; power += every) {
    for (double factor : {1.0, 2.0, 5.0})
      if (factor == 1 || decades <= 2) ticks.push_back(factor * std::pow(10, power));
  }
  ticks.push_back(std::pow(10, first + (decades + every - 1) / every * every));
  return ticks;
}

std::string tick_label(double value, double step) {
  const double size = std::abs(value);
  if (size < 1e-6 * step) return "0";  // what rounding left of it
  if (size >= 1e15 || step < 1e-4) {
    const int digits =
        std::clamp(static_cast<int>(std::floor(std::log10(size)) - std::floor(std::log10(step) + 1e-9)), 0, 6);
    std::string label = fmt::format("{:.{}e}", value, digits);
    const size_t exponent = label.find('e') + 2;  // behind its sign
    if (label[exponent] == '0') label.erase(exponent, 1);
    return label;
  }
  static constexpr std::pair<double, const char*> kUnits[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}};
  for (const auto& [unit, name] : kUnits) {
    if (size < unit * (unit == 1e3 ? 10 : 1) && unit > 1) continue;
    const int digits = std::max(0, static_cast<int>(-std::floor(std::log10(step / unit) + 1e-9)));
    if (unit > 1 && digits > 2) continue;
    return fmt::format("{:.{}f}{}", value / unit, digits, name);
  }
  return fmt::format("{:g}", value);
}

std::string svg_chart(const Chart& chart) {
  const Axis x = x_axis(chart), y = y_axis(chart);
  std::string svg = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", chart.width, chart.height,
                                escape_html(chart.title));
  for (double tick : y.ticks) {
    svg += line("grid", x.at_lo, y(tick), x.at_hi, y(tick));
    svg += text("tick", kLeft - 8, y(tick) + 3.5, "end", tick_label(tick, y.log ? tick : y.step));
  }
  svg += line("axis", x.at_lo, y.at_lo, x.at_hi, y.at_lo);
  for (double tick : x.ticks) {
    svg += line("axis", x(tick), y.at_lo, x(tick), y.at_lo + 4);
    svg += text("tick", x(tick), y.at_lo + 16, "middle", tick_label(tick, x.step));
  }
  if (!chart.unit.empty()) svg += text("unit", 0, kTop - 12, "start", chart.unit);
  svg += text("unit", x.at_hi, chart.height - 5, "end", chart.x_name);
  for (double event : chart.events)
    if (event >= x.lo && event <= x.hi) svg += line("event", x(event), y.at_hi, x(event), y.at_lo);
  for (double limit : chart.limits)
    if (y.shows(limit)) svg += line("limit", x.at_lo, y(limit), x.at_hi, y(limit));
  for (const Curve& curve : chart.curves) svg += draw(curve, x, y);
  return svg + "</svg>";
}

}  // namespace moraine
