#include "report/report_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/bytes.h"
#include "formats/html.h"
#include "report/report_text.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;

constexpr size_t kRanksShown = 8;    // in sight; more are folded away
constexpr size_t kRanksListed = 64;  // one by one; more are summed by host
constexpr size_t kHostsListed = 64;  // the slowest

std::string at_step(double step) {
  return "<span class=\"muted\"> at step " + whole_text(static_cast<int64_t>(step)) + "</span>";
}

// What ranks did, one or all of a host.
struct LoadSum {
  std::string name, host;
  int64_t ranks = 0, verified = 0;
  uint64_t read = 0, verify_read = 0, received = 0, shards = 0, peak = 0;
  double seconds = 0;  // of the slowest
  std::string slowest;

  void add(const LoadSum& other) {
    ranks += other.ranks;
    verified += other.verified;
    for (auto member : {&LoadSum::read, &LoadSum::verify_read, &LoadSum::received, &LoadSum::shards})
      this->*member += other.*member;
    peak = std::max(peak, other.peak);
    if (slowest.empty() || other.seconds > seconds) {
      seconds = other.seconds;
      slowest = other.slowest;
    }
  }
};

LoadSum load_of(const Json& rank, size_t index) {
  const auto bytes = [&](const char* key) { return static_cast<uint64_t>(count_fact(rank, key).value_or(0)); };
  const Json* verified = find_fact(rank, "verified");
  LoadSum sum{.name = whole_text(count_fact(rank, "rank").value_or(static_cast<int64_t>(index))),
              .host = text_fact(rank, "host"),
              .ranks = 1,
              .verified = verified && verified->is_boolean() && verified->get<bool>() ? 1 : 0,
              .read = bytes("bytes_read"),
              .verify_read = bytes("bytes_verify_read"),
              .received = bytes("bytes_received"),
              .shards = bytes("shard_bytes"),
              .peak = bytes("peak_rss_bytes"),
              .seconds = std::max(0.0, number_fact(rank, "seconds").value_or(0)),
              .slowest = {}};
  sum.slowest = fmt::format("rank {} on {}", sum.name, sum.host);
  return sum;
}

std::vector<LoadSum> by_host(const std::vector<LoadSum>& ranks) {
  std::vector<LoadSum> hosts;
  std::map<std::string, size_t> places;
  for (const LoadSum& rank : ranks) {
    const auto [place, is_new] = places.try_emplace(rank.host, hosts.size());
    if (is_new) hosts.push_back({.name = {}, .host = rank.host, .slowest = {}});
    hosts[place->second].add(rank);
  }
  for (LoadSum& host : hosts) host.name = whole_text(host.ranks);
  return hosts;
}

std::string load_table(const std::vector<LoadSum>& sums, const char* first_column) {
  ReportTable table;
  table.columns = {{"Host"},           {first_column, true}, {"Read", true},    {"Read to verify", true},
                   {"Received", true}, {"Held", true},       {"Seconds", true}, {"Peak memory", true},
                   {"Verified"}};
  for (const LoadSum& sum : sums) {
    table.rows.push_back({escape_html(sum.host), sum.name, format_bytes(sum.read), format_bytes(sum.verify_read),
                          format_bytes(sum.received), format_bytes(sum.shards), fmt::format("{:.2f}", sum.seconds),
                          format_bytes(sum.peak),
                          sum.verified == sum.ranks ? "every byte"
                          : sum.verified == 0       ? "not in full"
                                                    : fmt::format("{} of {}", sum.verified, sum.ranks)});
  }
  return table_html(table);
}

std::string folded(const std::string& summary, const std::string& html) {
  return "<details><summary>" + summary + "</summary>\n" + html + "</details>\n";
}

// A Python string with `text` in it.
std::string python_text(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string figures_html(const ReportInputs& inputs) {
  const MetricsSummary& m = inputs.metrics;
  if (m.steps == 0) return "";
  std::vector<std::pair<std::string, std::string>> losses, work;
  const auto add_losses = [&](const std::string& name, const Series& series) {
    if (series.count() == 0) return;
    losses.push_back({"First " + name, loss_text(series.first().y) + at_step(series.first().x)});
    losses.push_back({"Last " + name, loss_text(series.last().y) + at_step(series.last().x)});
    losses.push_back({"Lowest " + name, loss_text(series.lowest().y) + at_step(series.lowest().x)});
  };
  add_losses("loss", m.loss);
  add_losses("eval_loss", m.eval_loss);
  work.push_back({"Tokens seen", whole_text(m.tokens)});
  work.push_back({"Tokens trained",
                  whole_text(m.trained_tokens) + "<span class=\"muted\"> " +
                      percent_text(static_cast<double>(m.trained_tokens), static_cast<double>(m.tokens)) + "</span>"});
  if (m.train_seconds > 0)
    work.push_back({"Tokens a second", figure_text(static_cast<double>(m.tokens) / m.train_seconds)});
  if (m.step_time.count() > 0) {
    work.push_back({"Median step", duration_text(m.step_time.at(0.5))});
    work.push_back({"95 % of steps within", duration_text(m.step_time.at(0.95))});
  }
  const double hours = m.train_seconds / 3600;
  work.push_back({"Time in steps", fmt::format("{}<span class=\"muted\"> {:.{}f} h</span>",
                                               duration_text(m.train_seconds), hours, hours < 0.1 ? 4 : 2)});
  if (m.eval_seconds > 0) work.push_back({"Time in evaluation", duration_text(m.eval_seconds)});
  return "<section>\n<h2>Figures</h2>\n<div class=\"figures\">\n" + facts_html(losses) + facts_html(work) +
         "</div>\n</section>\n";
}

std::string sessions_html(const Json& run) {
  const Json* sessions = find_fact(run, "sessions");
  if (!sessions || !sessions->is_array() || sessions->size() < 2) return "";
  constexpr size_t kMost = 50;
  ReportTable table;
  table.columns = {{"Started"}, {"Steps", true}, {"Ranks", true}, {"Duration", true}, {"moraine"}, {"Ended by"}};
  for (size_t i = sessions->size() > kMost ? sessions->size() - kMost : 0; i < sessions->size(); ++i) {
    const Json& session = (*sessions)[i];
    const int64_t first = count_fact(session, "first_step").value_or(0),
                  last = count_fact(session, "step").value_or(first);
    const std::string end = text_fact(session, "end");
    table.rows.push_back({escape_html(time_text(text_fact(session, "started"))),
                          last > first ? fmt::format("{}–{}", whole_text(first + 1), whole_text(last)) : "none",
                          whole_text(count_fact(session, "ranks").value_or(0)),
                          duration_text(std::max(0.0, number_fact(session, "seconds").value_or(0))),
                          escape_html(text_fact(session, "moraine")),
                          end == "finished" ? "finished"
                          : end.empty()     ? "no end recorded"
                                            : escape_html(end)});
  }
  return "<section>\n<h2>Sessions</h2>\n" +
         (sessions->size() > kMost ? fmt::format("<p>The last {} of {}.</p>\n", kMost, sessions->size()) : "") +
         table_html(table) + "</section>\n";
}

std::string adapter_html(const ReportInputs& inputs) {
  std::error_code error;
  fs::path adapter = inputs.folder / "adapter";
  std::string words;
  if (inputs.has_adapter) {
    const auto size = fs::file_size(adapter / "adapter_model.safetensors", error);
    words = "The final adapter is <code>" + escape_html(adapter.string()) + "</code>" +
            (error ? "" : ", " + format_bytes(size)) + ".";
  } else {
    // The newest snapshot's serves as well.
    int64_t newest = 0;
    for (const auto& entry : fs::directory_iterator(inputs.folder / "checkpoints", error)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("step-") || name.size() > 20 || name.find_first_not_of("0123456789", 5) != name.npos)
        continue;
      if (name.size() > 5 && fs::exists(entry.path() / "adapter" / "adapter_model.safetensors", error))
        newest = std::max<int64_t>(newest, std::stoll(name.substr(5)));
    }
    if (newest == 0)
      return "<section>\n<h2>Adapter</h2>\n<p>There is none yet: it comes with a snapshot or when the run "
             "ends.</p>\n</section>\n";
    adapter = inputs.folder / "checkpoints" / fmt::format("step-{}", newest) / "adapter";
    words = fmt::format("There is no final adapter yet. That of the newest snapshot, of step {}, is <code>{}</code>.",
                        whole_text(newest), escape_html(adapter.string()));
  }
  const std::string model = inputs.recipe ? inputs.recipe->model.path : text_fact(inputs.run, "model.path");
  const std::string code = fmt::format(
      "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
      "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({}, dtype=\"auto\"), {})\n",
      python_text(model), python_text(adapter.string()));
  return "<section>\n<h2>Adapter</h2>\n<p>" + words + " To load it with PEFT:</p>\n<pre><code>" + escape_html(code) +
         "</code></pre>\n</section>\n";
}

std::string loading_html(const Json& load) {
  const Json* list = find_fact(load, "ranks");
  if (!list || !list->is_array() || list->empty()) return "";
  std::vector<LoadSum> ranks;
  for (const Json& rank : *list) ranks.push_back(load_of(rank, ranks.size()));
  LoadSum all;
  for (const LoadSum& rank : ranks) all.add(rank);
  std::string mode = text_fact(list->front(), "mode");
  if (const std::string transport = text_fact(list->front(), "transport"); !transport.empty())
    mode += " by " + transport;
  std::string html = fmt::format(
      "<section>\n<h2>Loading</h2>\n<p>Mode <code>{}</code>: {} read {} from files{}, and {} more to verify. The "
      "slowest, {}, took {}.</p>\n",
      escape_html(mode), count_words(all.ranks, "rank", "ranks"), format_bytes(all.read),
      all.received > 0 ? " and received " + format_bytes(all.received) + " from each other" : "",
      format_bytes(all.verify_read), escape_html(all.slowest), duration_text(all.seconds));
  if (ranks.size() <= kRanksShown) {
    html += load_table(ranks, "Rank");
  } else if (ranks.size() <= kRanksListed) {
    html += folded(fmt::format("All {} ranks", ranks.size()), load_table(ranks, "Rank"));
  } else {
    std::vector<LoadSum> hosts = by_host(ranks);
    std::string summary = fmt::format("By host ({} of them)", whole_text(static_cast<int64_t>(hosts.size())));
    if (hosts.size() > kHostsListed) {
      summary = fmt::format("The {} slowest of {} hosts", kHostsListed, whole_text(static_cast<int64_t>(hosts.size())));
      std::stable_sort(hosts.begin(), hosts.end(),
                       [](const LoadSum& a, const LoadSum& b) { return a.seconds > b.seconds; });
      hosts.resize(kHostsListed);
    }
    html += folded(summary, load_table(hosts, "Ranks"));
  }
  return html + "</section>\n";
}

std::string recipe_html(const ReportInputs& inputs) {
  if (inputs.recipe_text.empty()) return "";
  constexpr size_t kMost = 256 << 10;
  const bool cut = inputs.recipe_text.size() > kMost;
  return "<section>\n<h2>Recipe</h2>\n" +
         folded("recipe.yaml, every default filled in", "<pre><code>" +
                                                            escape_html(inputs.recipe_text.substr(0, kMost)) +
                                                            (cut ? "\n…" : "") + "</code></pre>\n") +
         "</section>\n";
}

}  // namespace moraine
