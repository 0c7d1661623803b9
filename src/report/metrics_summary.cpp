#include "report/metrics_summary.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "report/report_text.h"

namespace moraine {
namespace {

constexpr uint64_t kReadBytes = 1 << 20;
constexpr size_t kLongestLine = 1 << 16;  // a step's is about 300 bytes
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Calls `take` for every line, of a longer one than kLongestLine with its beginning. `is_whole`: a line end follows.
void for_each_line(const File& file, const std::function<void(std::string_view line, bool is_whole)>& take) {
  std::string line, chunk;
  for (uint64_t at = 0; at < file.size(); at += chunk.size()) {
    chunk.resize(std::min(kReadBytes, file.size() - at));
    file.read_exact(std::as_writable_bytes(std::span(chunk)), at);
    std::string_view rest = chunk;
    for (size_t end; (end = rest.find('\n')) != rest.npos; rest.remove_prefix(end + 1)) {
      line += rest.substr(0, std::min(end, kLongestLine));
      take(line, /*is_whole=*/true);
      line.clear();
    }
    if (line.size() <= kLongestLine) line += rest.substr(0, kLongestLine + 1);
  }
  if (!line.empty()) take(line, /*is_whole=*/false);
}

// Whether `text` is a step behind those before.
bool add_line(std::string_view text, double max_grad_norm, MetricsSummary& sum) {
  if (text.size() > kLongestLine) return false;
  const Json line = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto step = count_fact(line, "step");
  if (!step || *step <= sum.last_step) return false;
  if (sum.steps++ == 0) sum.first_step = *step;
  sum.last_step = *step;
  const auto number = [&](const char* key) { return number_fact(line, key).value_or(kNone); };
  const auto x = static_cast<double>(*step);
  // A loss that was no number is written as null: counted as left out.
  sum.loss.add(x, number("loss"));
  sum.grad_norm.add(x, number("grad_norm"));
  const std::pair<const char*, Series*> curves[] = {
      {"lr", &sum.learning_rate},          {"tokens_per_second", &sum.tokens_per_second},
      {"step_seconds", &sum.step_seconds}, {"expert_load_imbalance", &sum.expert_load_imbalance},
      {"aux_loss", &sum.aux_loss},         {"peak_memory_bytes", &sum.peak_memory_bytes},
      {"eval_loss", &sum.eval_loss}};
  for (const auto& [key, series] : curves)
    if (find_fact(line, key)) series->add(x, number(key));
  constexpr int64_t kMostTokens = int64_t{1} << 62;
  sum.tokens = std::min(kMostTokens, sum.tokens + count_fact(line, "tokens").value_or(0));
  sum.trained_tokens = std::min(kMostTokens, sum.trained_tokens + count_fact(line, "trained_tokens").value_or(0));
  sum.train_seconds += std::clamp(number_fact(line, "step_seconds").value_or(0), 0.0, 1e9);
  sum.eval_seconds += std::clamp(number_fact(line, "eval_seconds").value_or(0), 0.0, 1e9);
  sum.step_time.add(number("step_seconds"));
  sum.clipped += max_grad_norm > 0 && number("grad_norm") > max_grad_norm;
  return true;
}

}  // namespace

MetricsSummary summarize_metrics(const std::filesystem::path& path, double max_grad_norm) {
  const File file(path);
  MetricsSummary sum;
  int64_t number = 0;
  for_each_line(file, [&](std::string_view line, bool is_whole) {
    ++number;
    if (!is_whole) {
      sum.last_line_is_cut = true;
    } else if (!add_line(line, max_grad_norm, sum)) {
      if (sum.unreadable_lines++ == 0) sum.first_unreadable = number;
    }
  });
  if (sum.steps == 0 && number > 0 && !(number == 1 && sum.last_line_is_cut))
    throw input_error(path.string(), "no line is a step of a run", "name the folder of a run, save.dir");
  return sum;
}

}  // namespace moraine
