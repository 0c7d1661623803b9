#include "report/report_head.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/bytes.h"
#include "base/format_count.h"
#include "base/text.h"
#include "formats/html.h"
#include "report/report_charts.h"
#include "report/report_text.h"

namespace moraine {
namespace {

// What `path` says, escaped; "" when it says nothing.
std::string shown(const Json& facts, const char* path) { return escape_html(text_fact(facts, path)); }

std::string joined(const std::vector<std::string>& parts, const char* between) {
  std::string text;
  for (const std::string& part : parts)
    if (!part.empty()) text += (text.empty() ? "" : between) + part;
  return text;
}

// "30.53 B parameters" of a count at `path`.
std::string counted(const Json& facts, const char* path, const char* what) {
  const auto count = count_fact(facts, path);
  return count ? format_count(*count) + " " + what : "";
}

std::string model_lines(const ReportInputs& inputs) {
  const Json& run = inputs.run;
  const auto experts = count_fact(run, "model.experts").value_or(0),
             chosen = count_fact(run, "model.experts_per_token").value_or(0);
  std::vector<std::string> stored;
  if (const Json* dtypes = find_fact(run, "model.stored_dtypes"); dtypes && dtypes->is_object()) {
    for (const auto& [dtype, bytes] : dtypes->items())
      if (bytes.is_number_unsigned()) stored.push_back(escape_html(dtype) + " " + format_bytes(bytes.get<uint64_t>()));
  }
  const std::string compute = shown(run, "model.compute_dtype");
  return joined({"<strong>" + escape_html(inputs.model_name()) + "</strong>", shown(run, "model.architecture"),
                 joined({counted(run, "model.parameters", "parameters"), counted(run, "model.layers", "layers"),
                         experts > 0 ? fmt::format("{} experts, {} a token", experts, chosen) : ""},
                        ", "),
                 joined({stored.empty() ? "" : "stored as " + join_words(stored),
                         compute.empty() ? "" : "computed in " + compute},
                        ", ")},
                "<br/>");
}

std::string adapter_lines(const ReportInputs& inputs) {
  const Json& run = inputs.run;
  const auto r = number_fact(run, "adapter.r"), alpha = number_fact(run, "adapter.lora_alpha");
  if (!r || !alpha) return "";
  std::vector<std::string> targets;
  std::vector<double> ranks;
  if (const Json* list = find_fact(run, "adapter.targets"); list && list->is_array()) {
    for (const Json& target : *list) {
      const std::string pattern = shown(target, "pattern");
      ranks.push_back(number_fact(target, "r").value_or(*r));
      // A pattern has a line for each rank and scaling.
      if (targets.size() < 40 && !pattern.empty() && (targets.empty() || targets.back() != pattern))
        targets.push_back(pattern);
    }
  }
  const auto [least, most] = std::minmax_element(ranks.begin(), ranks.end());
  const std::string r_text = ranks.empty()     ? fmt::format("{:g}", *r)
                             : *least == *most ? fmt::format("{:g}", *least)
                                               : fmt::format("{:g} to {:g}", *least, *most);
  return joined(
      {fmt::format("<strong>LoRA, r {}, lora_alpha {:g}</strong>", r_text, *alpha),
       counted(run, "adapter.parameters", "trained parameters"), targets.empty() ? "" : "on " + joined(targets, ", ")},
      "<br/>");
}

std::string mesh_lines(const Json& run) {
  const auto count = [&](const char* path) { return count_fact(run, path).value_or(0); };
  const int64_t ranks = count("mesh.ranks");
  if (ranks == 0) return "";
  const std::string hosts = count("mesh.hosts") > 0 ? " on " + count_words(count("mesh.hosts"), "host", "hosts") : "";
  const std::string axes = fmt::format("ep {} × ep_fsdp {} × replicate {}, fsdp {}", count("mesh.ep"),
                                       count("mesh.ep_fsdp"), count("mesh.replicate"), count("mesh.fsdp"));
  const std::string threads =
      count("threads_per_rank") > 0 ? count_words(count("threads_per_rank"), "thread", "threads") + " a rank" : "";
  return joined({"<strong>" + count_words(ranks, "rank", "ranks") + hosts + "</strong>", ranks > 1 ? axes : "",
                 joined({shown(run, "device"), threads}, ", ")},
                "<br/>");
}

std::string data_lines(const Json& run) {
  const auto rows = count_fact(run, "data.sequences");
  if (!rows) return "";
  const auto packed = count_fact(run, "data.rows").value_or(*rows),
             held_out = count_fact(run, "data.eval_sequences").value_or(0);
  return joined({"<strong>" + count_words(*rows, "sequence", "sequences") + "</strong>" +
                     (packed < *rows ? ", packed into " + count_words(packed, "row", "rows") : ""),
                 joined({counted(run, "data.tokens", "tokens"), counted(run, "data.longest", "in the longest")}, ", "),
                 counted(run, "batch_size", "rows per step"), held_out > 0 ? whole_text(held_out) + " held out" : ""},
                "<br/>");
}

std::string time_lines(const Json& run) {
  const Json* sessions = find_fact(run, "sessions");
  if (!sessions || !sessions->is_array() || sessions->empty()) return "";
  double seconds = 0;
  for (const Json& session : *sessions) seconds += std::max(0.0, number_fact(session, "seconds").value_or(0));
  const Json& last = sessions->back();
  const std::string resumed = text_fact(last, "resumed_from");
  const std::string until = text_fact(last, "updated");
  return joined(
      {"<strong>" + duration_text(seconds) + "</strong>" +
           (sessions->size() > 1 ? fmt::format(" in {} sessions", sessions->size()) : ""),
       "started " + escape_html(time_text(text_fact(sessions->front(), "started"))),
       until.empty() ? ""
                     : (text_fact(last, "end").empty() ? "last heard of " : "ended ") + escape_html(time_text(until)),
       resumed.empty() ? "" : "resumed from " + escape_html(resumed)},
      "<br/>");
}

struct Check {
  enum class Level { kGood, kPlain, kLook } level;
  std::string words;  // HTML
};
using Level = Check::Level;

Check end_check(const ReportInputs& inputs) {
  const int64_t step = inputs.metrics.last_step, total = inputs.total_steps();
  const std::string of = total > 0 ? " of " + whole_text(total) : "";
  if (inputs.end() == "finished") return {Level::kGood, "The run finished: step " + whole_text(step) + of + "."};
  if (!inputs.end().empty())
    return {Level::kLook,
            fmt::format("The run was stopped after step {}{} by {}.", whole_text(step), of, escape_html(inputs.end()))};
  return {Level::kLook,
          fmt::format("No end is recorded: step {}{} is the last. The run is still going on, or it was killed.",
                      whole_text(step), of)};
}

Check record_check(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  const Json* sessions = find_fact(inputs.run, "sessions");
  // What run.json says was done when it was last written; a run that goes on has done more since.
  const int64_t done =
      sessions && sessions->is_array() && !sessions->empty() ? count_fact(sessions->back(), "step").value_or(0) : 0;
  const bool agrees = inputs.end().empty() ? m.last_step >= done : done == 0 || m.last_step == done;
  const std::string steps = fmt::format("steps {} to {}", whole_text(m.first_step), whole_text(m.last_step));
  if (m.steps > 0 && m.missing_steps() == 0 && m.unreadable_lines == 0 && !m.last_line_is_cut && agrees)
    return {Level::kGood, "metrics.jsonl holds every one of " + steps + "."};
  std::string words = m.steps == 0 ? "metrics.jsonl holds no step." : fmt::format("metrics.jsonl holds {}", steps);
  if (m.steps > 0)
    words += m.missing_steps() > 0 ? fmt::format(", of which {} are missing.", whole_text(m.missing_steps())) : ".";
  if (m.unreadable_lines > 0)
    words += fmt::format(" {} no step that follows those before (the first is line {}).",
                         count_words(m.unreadable_lines, "line is", "lines are"), whole_text(m.first_unreadable));
  if (!agrees) words += fmt::format(" run.json says that {} were done.", count_words(done, "step", "steps"));
  if (m.last_line_is_cut) words += " Its last line is cut short, as a killed run leaves it or one that is writing.";
  return {Level::kLook, words};
}

std::optional<Check> loss_check(const MetricsSummary& m) {
  if (m.loss.left_out() > 0)
    return Check{Level::kLook,
                 fmt::format("The loss of {} is no finite number.", count_words(m.loss.left_out(), "step", "steps"))};
  if (m.loss.count() < 2) return std::nullopt;
  const std::vector<SeriesPoint> means = m.loss.running_mean(kMeanShare);
  const double before = means.front().y, after = means.back().y;
  const bool fell = after < before;
  return Check{fell ? Level::kGood : Level::kLook,
               fmt::format("The loss {} from {} to {}{}.", fell ? "fell" : "did not fall: it went", loss_text(before),
                           loss_text(after),
                           m.loss.mean_window(kMeanShare) > 1 ? " (means of the first and the last steps)" : "")};
}

Check eval_check(const MetricsSummary& m) {
  if (m.eval_loss.left_out() > 0)
    return {Level::kLook, fmt::format("{} of held-out rows gave no finite loss.",
                                      count_words(m.eval_loss.left_out(), "evaluation", "evaluations"))};
  if (m.eval_loss.count() == 0)
    return {Level::kPlain,
            "No held-out rows were evaluated (data.eval): every loss here is one of rows that were trained."};
  const SeriesPoint best = m.eval_loss.lowest(), last = m.eval_loss.last();
  if (last.y > best.y * 1.02 && best.y > 0)
    return {Level::kLook, fmt::format("On held-out rows the loss was lowest after step {} ({}) and is {} at the end: "
                                      "it may have trained too long.",
                                      whole_text(static_cast<int64_t>(best.x)), loss_text(best.y), loss_text(last.y))};
  return {Level::kGood, fmt::format("On held-out rows the loss is {} after step {}.", loss_text(last.y),
                                    whole_text(static_cast<int64_t>(last.x)))};
}

std::optional<Check> gradient_check(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  const double limit = inputs.recipe ? inputs.recipe->train.max_grad_norm : 0;
  if (m.grad_norm.left_out() > 0)
    return Check{Level::kLook, fmt::format("The gradient norm of {} is no finite number.",
                                           count_words(m.grad_norm.left_out(), "step", "steps"))};
  if (limit <= 0 || m.grad_norm.count() == 0) return std::nullopt;
  if (m.clipped == 0)
    return Check{Level::kGood, fmt::format("No gradient had to be clipped (max_grad_norm {}).", figure_text(limit))};
  return Check{
      Level::kPlain,
      fmt::format("Gradients were clipped to max_grad_norm {} in {} of {}; the largest was {} at step {}.",
                  figure_text(limit), whole_text(m.clipped), count_words(m.steps, "step", "steps"),
                  figure_text(m.grad_norm.highest().y), whole_text(static_cast<int64_t>(m.grad_norm.highest().x)))};
}

std::optional<Check> weights_check(const Json& load) {
  const Json* ranks = find_fact(load, "ranks");
  if (!ranks || !ranks->is_array() || ranks->empty()) return std::nullopt;
  int64_t verified = 0;
  for (const Json& rank : *ranks) {
    const Json* fact = find_fact(rank, "verified");
    verified += fact && fact->is_boolean() && fact->get<bool>();
  }
  const auto all = static_cast<int64_t>(ranks->size());
  if (verified == all)
    return Check{Level::kGood, fmt::format("Every byte of the base weights was verified against the files on {}.",
                                           all == 1 ? "its rank" : fmt::format("all {} ranks", whole_text(all)))};
  return Check{Level::kLook, fmt::format("The base weights were verified in full on {} of {} only (load.verify).",
                                         whole_text(verified), count_words(all, "rank", "ranks"))};
}

std::optional<Check> memory_check(const ReportInputs& inputs) {
  const auto planned = number_fact(inputs.run, "planned_peak_bytes");
  const Series& peak = inputs.metrics.peak_memory_bytes;
  if (!planned || peak.count() == 0 || *planned > 0x1p60 || peak.highest().y <= 0 || peak.highest().y > 0x1p60)
    return std::nullopt;
  const bool within = peak.highest().y <= 1.1 * *planned;
  return Check{within ? Level::kGood : Level::kLook,
               fmt::format("The fullest rank needed {}; the plan for rows of max_length says {}.",
                           format_bytes(static_cast<uint64_t>(peak.highest().y)),
                           format_bytes(static_cast<uint64_t>(*planned)))};
}

}  // namespace

std::string run_name(const ReportInputs& inputs) {
  std::error_code ignored;
  const std::filesystem::path path = std::filesystem::absolute(inputs.folder, ignored).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

std::string headline_html(const ReportInputs& inputs) {
  const std::string end = inputs.end();
  const int64_t step = inputs.metrics.last_step, total = inputs.total_steps();
  const char* state = end == "finished" ? "good" : "look";
  const std::string words = end == "finished" ? "finished" : end.empty() ? "no end recorded" : "stopped by " + end;
  const std::string version = text_fact(inputs.run, "moraine");
  return fmt::format(
             "<header>\n<p class=\"over\">Training run{}</p>\n<h1>{}</h1>\n"
             "<p class=\"state {}\">{} · step {}{}</p>\n</header>\n",
             version.empty() ? "" : " · moraine " + escape_html(version), escape_html(run_name(inputs)), state,
             escape_html(words), whole_text(step), total > 0 ? " of " + whole_text(total) : "") +
         "<section class=\"what\">\n" +
         facts_html({{"Model", model_lines(inputs)},
                     {"Adapter", adapter_lines(inputs)},
                     {"Data", data_lines(inputs.run)},
                     {"Ranks", mesh_lines(inputs.run)},
                     {"Time", time_lines(inputs.run)}}) +
         "</section>\n";
}

std::string checks_html(const ReportInputs& inputs) {
  std::vector<std::optional<Check>> checks{
      end_check(inputs),          record_check(inputs),
      loss_check(inputs.metrics), inputs.metrics.steps > 0 ? std::optional(eval_check(inputs.metrics)) : std::nullopt,
      gradient_check(inputs),     weights_check(inputs.load),
      memory_check(inputs)};
  for (const std::string& note : inputs.notes) checks.push_back(Check{Level::kLook, escape_html(note)});
  std::string html = "<section>\n<h2>Can it be trusted?</h2>\n<ul class=\"checks\">\n";
  for (const auto& check : checks) {
    if (!check) continue;
    const auto [kind, sign] = check->level == Level::kGood    ? std::pair{"good", "✓"}
                              : check->level == Level::kPlain ? std::pair{"plain", "–"}
                                                              : std::pair{"look", "!"};
    html +=
        fmt::format("<li class=\"{}\"><span class=\"sign\">{}</span><span>{}</span></li>\n", kind, sign, check->words);
  }
  return html + "</ul>\n</section>\n";
}

}  // namespace moraine
