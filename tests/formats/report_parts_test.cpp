// What reports are made of: text in HTML, long series, charts.
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "formats/html.h"
#include "formats/series.h"
#include "formats/svg_chart.h"

namespace moraine {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

TEST(Html, EscapesWhateverTextHolds) {
  EXPECT_EQ(escape_html("runs/<b>&\"'x"), "runs/&lt;b&gt;&amp;&quot;&#39;x");
  EXPECT_EQ(escape_html("Lösung 模型 🦙"), "Lösung 模型 🦙");
  EXPECT_EQ(escape_html(std::string("a\0b\x1b[0m\x7f", 8)), "a\uFFFDb\uFFFD[0m\uFFFD");
  EXPECT_EQ(escape_html("a\tb\nc"), "a\tb\nc");
  EXPECT_EQ(escape_html("\xC3"), "\uFFFD");                      // cut short
  EXPECT_EQ(escape_html("\xC0\xAF!"), "\uFFFD\uFFFD!");          // overlong
  EXPECT_EQ(escape_html("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // half of a pair
  EXPECT_EQ(escape_html("\xEF\xBF\xBE"), "\uFFFD");
}

std::vector<double> ys(const std::vector<SeriesPoint>& points) {
  std::vector<double> values;
  for (const SeriesPoint& point : points) values.push_back(point.y);
  return values;
}

TEST(Series, ShortOnesAreKeptAsTheyAre) {
  Series series;
  EXPECT_EQ(series.points().size(), 0u);
  EXPECT_EQ(series.running_mean(0.05).size(), 0u);
  for (int i = 1; i <= 1000; ++i) series.add(i, i % 7);
  const std::vector<SeriesPoint> points = series.points();
  ASSERT_EQ(points.size(), 1000u);
  for (int i = 1; i <= 1000; ++i) {
    EXPECT_EQ(points[i - 1].x, i);
    EXPECT_EQ(points[i - 1].y, i % 7);
  }
}

TEST(Series, AMillionPointsKeepTheirSpikesAndEnds) {
  Series series;
  double sum = 0;
  for (int i = 1; i <= 1'000'000; ++i) {
    const double y = i == 1 ? 5 : i == 123'457 ? 1000 : i == 777'777 ? -1000 : i == 1'000'000 ? 3 : std::sin(i);
    series.add(i, y);
    sum += y;
  }
  const std::vector<SeriesPoint> points = series.points();
  EXPECT_GE(points.size(), 400u);
  EXPECT_LE(points.size(), 1002u);
  EXPECT_EQ(points.front().x, 1);
  EXPECT_EQ(points.front().y, 5);
  EXPECT_EQ(points.back().x, 1'000'000);
  EXPECT_EQ(points.back().y, 3);
  const std::vector<double> values = ys(points);
  EXPECT_THAT(values, testing::Contains(1000));
  EXPECT_THAT(values, testing::Contains(-1000));
  for (size_t i = 1; i < points.size(); ++i) EXPECT_GT(points[i].x, points[i - 1].x);
  EXPECT_EQ(series.highest().x, 123'457);
  EXPECT_EQ(series.lowest().x, 777'777);
  // A mean of all is the mean.
  EXPECT_NEAR(series.running_mean(2.0).front().y, sum / 1e6, 1e-9);
  EXPECT_LE(series.running_mean(0.04).size(), 1000u);
}

TEST(Series, RunningMean) {
  Series series;
  for (int i = 1; i <= 100; ++i) series.add(i, i);
  EXPECT_EQ(series.mean_window(0.05), 5);
  const std::vector<SeriesPoint> means = series.running_mean(0.05);
  EXPECT_EQ(means[0].y, 2);    // of 1, 2, 3
  EXPECT_EQ(means[50].y, 51);  // of 49 … 53
  EXPECT_EQ(means[99].y, 99);
  Series single;
  single.add(7, 2.5);
  EXPECT_EQ(single.mean_window(0.05), 1);
  EXPECT_THAT(ys(single.running_mean(0.05)), ElementsAre(2.5));
}

TEST(Series, WhatIsNoNumberIsCountedAndLeftOut) {
  Series series;
  for (double y : {1.0, std::nan(""), HUGE_VAL, 1e300, -HUGE_VAL, 2.0})
    series.add(series.count() + series.left_out() + 1, y);
  EXPECT_EQ(series.count(), 2);
  EXPECT_EQ(series.left_out(), 4);
  EXPECT_THAT(ys(series.points()), ElementsAre(1, 2));
}

TEST(Quantiles, WithinATenthOfAPercent) {
  Quantiles quantiles;
  for (int i = 1; i <= 10'000; ++i) quantiles.add(i * 1e-3);
  EXPECT_NEAR(quantiles.at(0.5), 5, 5e-3);
  EXPECT_NEAR(quantiles.at(0.95), 9.5, 9.5e-3);
  EXPECT_EQ(quantiles.at(1), 10);
  Quantiles one;
  one.add(0.123);
  one.add(0);
  one.add(std::nan(""));
  EXPECT_EQ(one.count(), 1);
  EXPECT_EQ(one.at(0.5), 0.123);
}

TEST(Ticks, AreRoundAndEncloseTheValues) {
  EXPECT_THAT(nice_ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(nice_ticks(1, 120, 5, 1), ElementsAre(0, 50, 100, 150));
  EXPECT_THAT(nice_ticks(1, 3, 5, 1), ElementsAre(1, 2, 3));
  EXPECT_THAT(nice_ticks(0, 0, 4), testing::Contains(0));
  for (const auto& [lo, hi] : std::vector<std::pair<double, double>>{{0, 1e-90},
                                                                     {-3, 5},
                                                                     {1e99, 1.0000000001e99},
                                                                     {7, 7},
                                                                     {-7, -7},
                                                                     {0, 0},
                                                                     {1, 1 + 1e-15},
                                                                     {-1e100, 1e100},
                                                                     {0.1, 0.3}}) {
    const std::vector<double> ticks = nice_ticks(lo, hi, 5);
    ASSERT_GE(ticks.size(), 2u) << lo << " " << hi;
    EXPECT_LE(ticks.size(), 14u) << lo << " " << hi;
    EXPECT_LE(ticks.front(), lo + 1e-9 * std::abs(lo));
    EXPECT_GE(ticks.back(), hi - 1e-9 * std::abs(hi));
    for (size_t i = 1; i < ticks.size(); ++i) EXPECT_GT(ticks[i], ticks[i - 1]);
  }
  for (const auto& [lo, hi] :
       std::vector<std::pair<double, double>>{{1e-3, 20}, {1, 1}, {2, 3}, {1e-90, 1e90}, {0.5, 700}}) {
    const std::vector<double> ticks = log_ticks(lo, hi);
    ASSERT_GE(ticks.size(), 2u);
    EXPECT_LE(ticks.size(), 9u);
    EXPECT_LE(ticks.front(), lo * 1.0001);
    EXPECT_GE(ticks.back(), hi * 0.9999);
    for (size_t i = 1; i < ticks.size(); ++i) EXPECT_GT(ticks[i], ticks[i - 1]);
  }
}

TEST(Ticks, LabelsAreShortAndTellTicksApart) {
  EXPECT_EQ(tick_label(0, 0.5), "0");
  EXPECT_EQ(tick_label(0.5, 0.5), "0.5");
  EXPECT_EQ(tick_label(0.30000000000000004, 0.1), "0.3");
  EXPECT_EQ(tick_label(1e-18, 0.1), "0");
  EXPECT_EQ(tick_label(-2, 1), "-2");
  EXPECT_EQ(tick_label(5000, 1000), "5000");
  EXPECT_EQ(tick_label(20'000, 5000), "20k");
  EXPECT_EQ(tick_label(1'500'000, 500'000), "1.5M");
  EXPECT_EQ(tick_label(12'345, 5), "12345");
  EXPECT_EQ(tick_label(5e-5, 5e-5), "5e-5");
  EXPECT_EQ(tick_label(1.25e-4, 5e-6), "1.25e-4");
  EXPECT_EQ(tick_label(2e15, 1e15), "2e+15");
}

TEST(SvgChart, DrawsWhatThereIs) {
  Chart chart{.title = "loss & <more>", .unit = "nats"};
  EXPECT_THAT(svg_chart(chart), HasSubstr("loss &amp; &lt;more&gt;"));  // no value at all
  chart.curves = {{CurveKind::kRaw, {{1, 3}}}, {CurveKind::kMark, {{1, 2}}}};
  EXPECT_THAT(svg_chart(chart), HasSubstr("<circle class=\"raw dot\""));  // a single step is a dot
  chart.curves = {{CurveKind::kRaw, {{1, 3}, {2, 0}, {3, -1}, {4, 1e100}}}, {CurveKind::kMean, {{1, 0}, {4, 0}}}};
  chart.limits = {1, 0};
  chart.events = {2, 17};
  for (auto scale : {Chart::Scale::kLinear, Chart::Scale::kFromZero, Chart::Scale::kLog}) {
    chart.scale = scale;
    const std::string svg = svg_chart(chart);
    for (const char* never : {"nan", "inf", "NaN"}) EXPECT_THAT(svg, Not(HasSubstr(never)));
    EXPECT_THAT(svg, HasSubstr("<polyline class=\"raw\""));
    EXPECT_THAT(svg, HasSubstr("<line class=\"limit\""));
  }
}

}  // namespace
}  // namespace moraine
