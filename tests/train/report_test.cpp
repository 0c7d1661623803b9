// report.html as a function of a run folder: hostile folders, short and long runs, many ranks. That a run leaves one,
// and that its figures are those of metrics.jsonl, is tested on ranks (tests/ranks/report_test.py).
#include <gmock/gmock.h>

#include <cmath>

#include "base/file.h"
#include "base/temp_folder.h"
#include "report/metrics_summary.h"
#include "report/report_text.h"
#include "report/run_record.h"
#include "report/run_report.h"

namespace moraine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

std::string step_line(int64_t step, double loss = 1.5) {
  return OrderedJson{{"step", step},
                     {"loss", loss},
                     {"grad_norm", 0.5},
                     {"lr", 1e-4},
                     {"tokens", 100},
                     {"trained_tokens", 60},
                     {"aux_loss", 2.0},
                     {"expert_load_imbalance", 1.25},
                     {"step_seconds", 0.25},
                     {"tokens_per_second", 400.0},
                     {"peak_memory_bytes", 1 << 20}}
             .dump() +
         "\n";
}

class Report : public testing::Test {
 protected:
  void metrics(const std::string& text) { temp_.write("run/metrics.jsonl", text); }
  std::string html() const {
    const std::string page = report_html(temp_ / "run");
    for (const char* never : {"nan", "NaN", "inf\"", ">inf", "-inf", "<script", "http://"})
      EXPECT_EQ(page.find(never, page.find("</style>")), page.npos) << never;
    return page;
  }
  std::string problem() const {
    return error_of([&] { report_html(temp_ / "run"); });
  }

  TempFolder temp_;
};

TEST_F(Report, FoldersThatAreNoRunsAreRefused) {
  EXPECT_THAT(problem(), HasSubstr("no such folder"));
  fs::create_directory(temp_ / "run");
  EXPECT_THAT(problem(), HasSubstr("holds no metrics.jsonl"));
  fs::create_directory(temp_ / "run" / "metrics.jsonl");
  EXPECT_THAT(problem(), HasSubstr("metrics.jsonl"));
  fs::remove(temp_ / "run" / "metrics.jsonl");
  metrics("these are\nno steps\n");
  EXPECT_THAT(problem(), HasSubstr("no line is a step"));
  metrics("{\"step\": \"first\", \"loss\": 1}\n");
  EXPECT_THAT(problem(), HasSubstr("no line is a step"));
  metrics(std::string(3 << 20, 'x'));
  EXPECT_THAT(html(), HasSubstr("cut short"));
  metrics(std::string(3 << 20, 'x') + "\n");
  EXPECT_THAT(problem(), HasSubstr("no line is a step"));
}

TEST_F(Report, AFolderWithMetricsAlone) {
  metrics(step_line(1));
  const std::string page = html();
  for (const char* file : {"run.json", "load.json", "recipe.yaml"})
    EXPECT_THAT(page, HasSubstr(std::string("There is no ") + file));
  EXPECT_THAT(page, HasSubstr("No end is recorded"));
  EXPECT_THAT(page, HasSubstr("There is none yet"));  // an adapter
  metrics("");
  EXPECT_THAT(html(), HasSubstr("metrics.jsonl holds no step"));
}

TEST_F(Report, DamagedLinesAreSaid) {
  metrics(step_line(1) + step_line(2) + "{\"step\": 3, \"lo");
  EXPECT_THAT(html(), HasSubstr("Its last line is cut short"));
  metrics(step_line(1) + "noise\n" + step_line(4) + "{\"step\": \"5\"}\n" + step_line(2) + step_line(5));
  const MetricsSummary sum = summarize_metrics(temp_ / "run" / "metrics.jsonl", 0.4);
  EXPECT_EQ(sum.steps, 3);
  EXPECT_EQ(sum.unreadable_lines, 3);
  EXPECT_EQ(sum.first_unreadable, 2);
  EXPECT_EQ(sum.missing_steps(), 2);
  EXPECT_EQ(sum.clipped, 3);
  EXPECT_THAT(html(),
              HasSubstr("of which 2 are missing. 3 lines are no step that follows those before (the first is line 2)"));
}

TEST_F(Report, FiguresThatAreNoNumbers) {
  metrics(step_line(1) +
          "{\"step\": 2, \"loss\": null, \"grad_norm\": \"big\", \"tokens\": -5, \"step_seconds\": 1e300}\n" +
          "{\"step\": 3, \"loss\": 1e308, \"eval_loss\": null, \"tokens\": 9e18, \"lr\": {}, \"peak_memory_bytes\": "
          "-1e90}\n" +
          "{\"step\": 4}\n");
  const std::string page = html();
  EXPECT_THAT(page, HasSubstr("The loss of 3 steps is no finite number"));
  EXPECT_THAT(page, HasSubstr("1 evaluation of held-out rows gave no finite loss"));
}

TEST_F(Report, OtherFilesMayBeDamaged) {
  metrics(step_line(1));
  for (const char* text :
       {"", "{", "[]", "null", "{\"sessions\": 3, \"ranks\": 4, \"model\": []}",
        "{\"sessions\": [], \"ranks\": [], \"mesh\": {\"ranks\": -1}}", "\xff\xfe", "{\"planned_peak_bytes\": 1e300}",
        "{\"sessions\": [null, 3, {\"started\": [], \"seconds\": 1e300, \"first_step\": 1e30}],"
        " \"ranks\": [null, {\"host\": 3}]}"}) {
    temp_.write("run/run.json", text);
    temp_.write("run/load.json", text);
    temp_.write("run/recipe.yaml", text);
    EXPECT_THAT(html(), HasSubstr("</html>"));
  }
}

TEST_F(Report, TextIsEscaped) {
  metrics(step_line(1));
  const std::string evil = "<img src=x onerror=alert(1)>&\"'";
  temp_.write("run/run.json", Json{{"moraine", evil},
                                   {"model", {{"path", evil}, {"architecture", evil}, {"stored_dtypes", {{evil, 3}}}}},
                                   {"adapter", {{"r", 8}, {"lora_alpha", 16}, {"targets", {{{"pattern", evil}}}}}},
                                   {"mesh", {{"ranks", 2}}},
                                   {"device", evil},
                                   {"sessions",
                                    {{{"started", evil}, {"end", evil}, {"resumed_from", evil}, {"moraine", evil}},
                                     {{"started", evil}, {"end", evil}, {"resumed_from", evil}, {"moraine", evil}}}}}
                                  .dump());
  temp_.write("run/load.json", Json{{"ranks", {{{"host", evil}, {"mode", evil}, {"transport", evil}}}}}.dump());
  temp_.write("run/recipe.yaml", "# " + evil + "\nmodel: {path: '" + evil.substr(0, 20) + "'}\n");
  EXPECT_THAT(html(), Not(HasSubstr("<img")));
  // Python's strings too: quotes cannot end them.
  temp_.write("run/adapter/adapter_model.safetensors", "");
  temp_.write("run/recipe.yaml", "model: {path: 'a\") or evil(\"'}\n");
  EXPECT_THAT(html(), HasSubstr("from_pretrained(&quot;a\\&quot;) or evil(\\&quot;&quot;, dtype"));
}

TEST_F(Report, LongRunsAndLargeWorldsGiveSmallFiles) {
  std::string text;
  for (int64_t step = 1; step <= 40'000; ++step) text += step_line(step, step == 7777 ? 99.0 : 2 + std::sin(step));
  metrics(text);
  Json ranks = Json::array();
  for (int rank = 0; rank < 1024; ++rank) {
    ranks.push_back({{"rank", rank},
                     {"host", "host-" + std::to_string(rank / 8)},
                     {"mode", "direct"},
                     {"bytes_read", 1 << 30},
                     {"bytes_verify_read", 1 << 30},
                     {"seconds", rank == 513 ? 60.0 : 5.0},
                     {"verified", rank != 3}});
  }
  temp_.write("run/load.json", Json{{"ranks", ranks}}.dump());
  const std::string page = html();
  EXPECT_LT(page.size(), 400'000u);
  EXPECT_THAT(page, HasSubstr("The slowest, rank 513 on host-64, took 1 min 00 s"));
  EXPECT_THAT(page, HasSubstr("The 64 slowest of 128 hosts"));
  EXPECT_THAT(page, HasSubstr("verified in full on 1,023 of 1,024 ranks only"));
  EXPECT_THAT(page, HasSubstr("4,000,000"));  // tokens
}

TEST_F(Report, RecordKeepsTheSessionsOfARunThatGoesOn) {
  const fs::path run = temp_ / "run";
  metrics(step_line(1) + step_line(2));
  const auto now = std::chrono::system_clock::now();
  const OrderedJson facts{{"moraine", "1"}, {"mesh", {{"ranks", 2}}}, {"steps", 4}};
  const RunFacts about{{{"train.seed", "0"}}, {{"train.seed", "0"}}};
  EXPECT_FALSE(recorded_facts(run));  // no run.json
  {
    RunRecord first(run, facts, about, now, 0, "");
    first.snapshot(2);
    EXPECT_TRUE(fs::exists(run / "report.html"));
    EXPECT_THAT(html(), HasSubstr("No end is recorded: step 2 of 4"));
  }
  RunRecord second(run, facts, about, now, 2, "checkpoints/step-2");
  metrics(step_line(1) + step_line(2) + step_line(3));
  EXPECT_THAT(second.end(3, "SIGTERM"), HasSubstr("report.html"));
  EXPECT_THAT(html(), HasSubstr("stopped after step 3 of 4 by SIGTERM"));
  EXPECT_THAT(html(), HasSubstr("resumed from checkpoints/step-2"));
  const Json sessions = read_json_file(run / "run.json")["sessions"];
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_TRUE(sessions[0]["end"].is_null());
  EXPECT_EQ(sessions[0]["step"], 2);
  EXPECT_EQ(sessions[1]["first_step"], 2);
  EXPECT_EQ(sessions[1]["end"], "SIGTERM");
  EXPECT_EQ(recorded_facts(run)->to_json(), about.to_json());
  EXPECT_EQ(report_html(run), read_text_file(run / "report.html"));
  metrics(step_line(1) + step_line(2));
  EXPECT_THAT(html(), HasSubstr("run.json says that 3 steps were done"));
  // A new run in the same folder has no past.
  RunRecord third(run, facts, about, now, 0, "");
  EXPECT_EQ(read_json_file(run / "run.json")["sessions"].size(), 1u);
  // What cannot be written is no error.
  fs::remove(run / "report.html");
  fs::create_directories(run / "report.html" / "in the way");
  testing::internal::CaptureStderr();
  EXPECT_THAT(third.end(3, "finished"), HasSubstr("No report"));
  const std::string warning = testing::internal::GetCapturedStderr();
  EXPECT_THAT(warning, testing::StartsWith("moraine: warning: the report was not written: "));
  EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 1);
  // One that says nothing of what the run was about: of an earlier version, or damaged.
  for (const char* text : {R"({"sessions": []})", R"({"resume": {"compared": {"train.seed": 0}, "recipe": {}}})",
                           R"({"resume": [])", "[]"}) {
    temp_.write("run/run.json", text);
    EXPECT_FALSE(recorded_facts(run)) << text;
  }
}

TEST(ReportText, Figures) {
  EXPECT_EQ(whole_text(0), "0");
  EXPECT_EQ(whole_text(999), "999");
  EXPECT_EQ(whole_text(1000), "1,000");
  EXPECT_EQ(whole_text(-1234567), "-1,234,567");
  EXPECT_EQ(loss_text(0.41204), "0.4120");
  EXPECT_EQ(loss_text(1.234e-5), "1.23e-05");
  EXPECT_EQ(figure_text(31415.9), "31,416");
  EXPECT_EQ(figure_text(3141.59), "3142");
  EXPECT_EQ(duration_text(0.4121), "412 ms");
  EXPECT_EQ(duration_text(12.34), "12.3 s");
  EXPECT_EQ(duration_text(245), "4 min 05 s");
  EXPECT_EQ(duration_text(11100), "3 h 05 min");
  EXPECT_EQ(time_text("2026-07-31T14:03:22Z"), "2026-07-31 14:03:22 UTC");
  EXPECT_EQ(count_words(1, "step", "steps"), "1 step");
}

}  // namespace
}  // namespace moraine
