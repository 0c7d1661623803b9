#include "report/report_charts.h"

#include <fmt/format.h>

#include <algorithm>

#include "formats/html.h"
#include "formats/svg_chart.h"
#include "report/report_text.h"

namespace moraine {
namespace {

struct Figure {
  Chart chart = {};
  std::vector<std::pair<const char*, std::string>> legend = {};  // a curve's class and what it is
  std::string value = {};                                        // at the right: the figure to remember
  bool wide = false;
};

std::string figure_html(const Figure& figure) {
  std::string html = fmt::format(
      "<figure{}><figcaption><div><strong>{}</strong> <span class=\"value\">{}</span></div>\n<div class=\"keys\">",
      figure.wide ? " class=\"wide\"" : "", escape_html(figure.chart.title), escape_html(figure.value));
  for (const auto& [kind, words] : figure.legend)
    html += fmt::format("<span class=\"key\"><i class=\"swatch {}\"></i>{}</span> ", kind, escape_html(words));
  return html + "</div></figcaption>\n" + svg_chart(figure.chart) + "</figure>\n";
}

// Every value and, where there are enough, their running mean.
Figure figure_of(const std::string& title, const std::string& unit, const Series& series, Chart::Scale scale) {
  Figure figure;
  figure.chart.title = title;
  figure.chart.unit = unit;
  figure.chart.scale = scale;
  const int64_t window = series.mean_window(kMeanShare);
  const bool has_mean = series.mean_window(kMeanShare) > 1 && series.running_mean(kMeanShare).size() > 1;
  figure.chart.curves = {{has_mean ? CurveKind::kRaw : CurveKind::kMean, series.points()}};
  if (!has_mean) return figure;
  figure.chart.curves.push_back({CurveKind::kMean, series.running_mean(kMeanShare)});
  figure.legend = {{"raw", "each step"}, {"mean", fmt::format("mean of {} steps", whole_text(window))}};
  return figure;
}

std::vector<SeriesPoint> divided(std::vector<SeriesPoint> points, double by) {
  for (SeriesPoint& point : points) point.y /= by;
  return points;
}

// Steps after which the program was started again.
std::vector<double> resumed_after(const ReportInputs& inputs) {
  std::vector<double> steps;
  const Json* sessions = find_fact(inputs.run, "sessions");
  if (!sessions || !sessions->is_array()) return steps;
  for (const Json& session : *sessions) {
    const int64_t first = count_fact(session, "first_step").value_or(0);
    if (first > inputs.metrics.first_step) steps.push_back(static_cast<double>(first));
  }
  return steps;
}

Figure loss_figure(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  Figure figure = figure_of("Loss", "nats per token", m.loss, Chart::Scale::kLinear);
  figure.wide = true;
  figure.chart.width = 960;
  figure.chart.height = 300;
  figure.chart.events = resumed_after(inputs);
  if (m.eval_loss.count() > 0) {
    figure.chart.curves.push_back({CurveKind::kMark, m.eval_loss.points()});
    figure.legend.push_back({"mark", "held-out rows (eval_loss)"});
  }
  if (!figure.chart.events.empty()) figure.legend.push_back({"event", "resumed"});
  if (m.loss.count() > 0) figure.value = "last " + loss_text(m.loss.last().y);
  return figure;
}

Figure grad_norm_figure(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  const double limit = inputs.recipe ? inputs.recipe->train.max_grad_norm : 0;
  const double highest = m.grad_norm.count() > 0 ? m.grad_norm.highest().y : 0;
  double smallest = highest;  // above 0
  for (const SeriesPoint& point : m.grad_norm.points())
    if (point.y > 0) smallest = std::min(smallest, point.y);
  const bool many_decades = smallest > 0 && std::max(highest, limit) / smallest > 100;
  Figure figure = figure_of("Gradient norm", "before clipping", m.grad_norm,
                            many_decades ? Chart::Scale::kLog : Chart::Scale::kFromZero);
  if (limit > 0) {
    figure.chart.limits = {limit};
    figure.legend.push_back({"limit", "max_grad_norm " + figure_text(limit)});
  }
  if (m.grad_norm.count() > 0) figure.value = "highest " + figure_text(highest);
  return figure;
}

Figure memory_figure(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  const double planned = number_fact(inputs.run, "planned_peak_bytes").value_or(0);
  const double size = std::max(planned, m.peak_memory_bytes.highest().y);
  const auto [unit, name] = size >= 0x1p30 ? std::pair{0x1p30, "GiB"} : std::pair{0x1p20, "MiB"};
  Figure figure;
  figure.chart.title = "Peak memory so far";
  figure.chart.unit = std::string(name) + ", fullest rank";
  figure.chart.scale = Chart::Scale::kFromZero;
  figure.chart.curves = {{CurveKind::kMean, divided(m.peak_memory_bytes.points(), unit)}};
  if (planned > 0) {
    figure.chart.limits = {planned / unit};
    figure.legend = {{"limit", "planned for rows of max_length"}};
  }
  figure.value = fmt::format("{:.4g} {}", m.peak_memory_bytes.highest().y / unit, name);
  return figure;
}

}  // namespace

std::string charts_html(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  if (m.steps == 0) return "";
  std::vector<Figure> figures{loss_figure(inputs), grad_norm_figure(inputs)};
  if (m.learning_rate.count() > 0) {
    Figure figure;
    figure.chart.title = "Learning rate";
    figure.chart.scale = Chart::Scale::kFromZero;
    figure.chart.curves = {{CurveKind::kMean, m.learning_rate.points()}};
    figure.value = fmt::format("highest {:.3g}", m.learning_rate.highest().y);
    figures.push_back(figure);
  }
  if (m.tokens_per_second.count() > 0) {
    figures.push_back(figure_of("Throughput", "tokens/s", m.tokens_per_second, Chart::Scale::kFromZero));
    if (m.train_seconds > 0)
      figures.back().value = figure_text(static_cast<double>(m.tokens) / m.train_seconds) + " tokens/s in all";
  }
  if (m.step_seconds.count() > 0) {
    figures.push_back(figure_of("Step time", "seconds", m.step_seconds, Chart::Scale::kFromZero));
    if (m.step_time.count() > 0) figures.back().value = "median " + duration_text(m.step_time.at(0.5));
  }
  if (m.expert_load_imbalance.count() > 0 && m.expert_load_imbalance.highest().y > 0) {
    figures.push_back(
        figure_of("Expert load imbalance", "busiest expert / mean", m.expert_load_imbalance, Chart::Scale::kLinear));
    figures.back().value = fmt::format("last {:.2f}", m.expert_load_imbalance.last().y);
  }
  if (m.aux_loss.count() > 0 && inputs.recipe && inputs.recipe->train.aux_loss_coef > 0) {
    figures.push_back(
        figure_of("Routers' auxiliary loss", "before its coefficient", m.aux_loss, Chart::Scale::kLinear));
    figures.back().value = "last " + loss_text(m.aux_loss.last().y);
  }
  if (m.peak_memory_bytes.count() > 0 && m.peak_memory_bytes.highest().y > 0) figures.push_back(memory_figure(inputs));
  std::string html = "<section class=\"charts\">\n";
  for (const Figure& figure : figures) html += figure_html(figure);
  return html + "</section>\n";
}

}  // namespace moraine
