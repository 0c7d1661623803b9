// Line charts as SVG elements for an HTML page, whose style sheet colours them by class:
//
//   raw, mean, mark, limit, event   a series or line, as its kind says
//   grid, axis, tick, unit          what it is measured by
#pragma once

#include <string>
#include <vector>

#include "formats/series.h"

namespace moraine {

enum class CurveKind {
  kRaw,   // every value: thin, light
  kMean,  // what to look at: strong
  kMark,  // few values: dots
};

struct Curve {
  CurveKind kind = CurveKind::kRaw;
  std::vector<SeriesPoint> points;
};

struct Chart {
  std::string title;  // for who hears the page; not drawn
  std::string unit;   // of y, drawn above its axis
  std::string x_name = "step";
  enum class Scale {
    kLinear,
    kFromZero,
    kLog
  } scale = Scale::kLinear;  // of y; on kLog what is not above 0 is left out
  std::vector<Curve> curves;
  std::vector<double> limits;  // values of y that a dashed line shows
  std::vector<double> events;  // values of x that a dashed line shows
  int width = 470, height = 200;
};

// Values without points give a chart without curves; one point is a dot. All coordinates are numbers.
std::string svg_chart(const Chart& chart);

// About `wanted` multiples of 1, 2 or 5 × 10^k that enclose lo … hi, rising; `smallest_step` = 1 keeps them whole. lo
// == hi is widened.
std::vector<double> nice_ticks(double lo, double hi, int wanted, double smallest_step = 0);
// Powers of ten (and where there are few, 2 and 5 times those) that enclose lo … hi, 0 < lo <= hi.
std::vector<double> log_ticks(double lo, double hi);
// "0.25", "20k", "5e-05": short, with the digits that tell ticks a `step` apart.
std::string tick_label(double value, double step);

}  // namespace moraine
