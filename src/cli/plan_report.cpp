#include "cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/bytes.h"
#include "base/text.h"
#include "plan/plan_advice.h"

namespace moraine {
namespace {

uint64_t whole(double bytes) { return static_cast<uint64_t>(bytes + 0.5); }

OrderedJson bytes_json(const NetworkBytes& bytes) {
  return {{"within_node", whole(bytes.within_node)}, {"between_nodes", whole(bytes.between_nodes)}};
}

OrderedJson step_json(const StepTraffic& traffic) {
  OrderedJson json = bytes_json(traffic.total());
  json["image_gathers"] = bytes_json(traffic.image_gathers);
  json["token_exchange"] = bytes_json(traffic.token_exchange);
  json["gradient_reduction"] = bytes_json(traffic.gradient_reduction);
  json["updated_values"] = bytes_json(traffic.updated_values);
  return json;
}

const PlannedRank& busiest(const RunPlan& plan) {
  return *std::max_element(plan.ranks.begin(), plan.ranks.end(), [](const PlannedRank& a, const PlannedRank& b) {
    return a.received.total().total() < b.received.total().total();
  });
}

const MemoryStage& fullest_stage(const RankMemory& memory) {
  return *std::max_element(memory.stages.begin(), memory.stages.end(),
                           [](const MemoryStage& a, const MemoryStage& b) { return a.bytes < b.bytes; });
}

std::string ranks_text(int64_t first, int64_t last) {
  return first == last ? fmt::format("rank {}", first) : fmt::format("ranks {}–{}", first, last);
}

// "4.2 GiB", or "4.2–4.5 GiB" where ranks differ visibly.
std::string range_text(uint64_t least, uint64_t most) {
  const std::string low = format_bytes(least), high = format_bytes(most);
  return low == high ? high : low + " – " + high;
}

// Columns as wide as their widest cell, counted in characters.
std::string table(const std::vector<std::vector<std::string>>& rows) {
  auto width_of = [](const std::string& text) {
    return std::count_if(text.begin(), text.end(),
                         [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
  };
  std::vector<int64_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max<int64_t>(widths[i], width_of(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string fill(widths[i] - width_of(row[i]), ' ');
      line += i == 0 ? "  " + row[i] + fill : "  " + fill + row[i];
    }
    text += line + "\n";
  }
  return text;
}

// Neighbours that hold the same, one row each.
std::string memory_table(const RunPlan& plan) {
  std::vector<std::vector<std::string>> rows{
      {"a rank", "reads", "base", "gather buffers", "adapter", "moments", "activations", "libtorch", "peak"}};
  std::vector<std::vector<const PlannedRank*>> groups;
  for (const PlannedRank& rank : plan.ranks) {
    if (groups.empty() || groups.back().back()->memory != rank.memory) groups.emplace_back();
    groups.back().push_back(&rank);
  }
  constexpr size_t kMostRows = 12;
  if (groups.size() > kMostRows) {  // classes take turns: by class then, wherever its ranks are
    groups.assign(plan.memories.size(), {});
    for (const PlannedRank& rank : plan.ranks) groups[rank.memory].push_back(&rank);
  }
  for (const auto& group : groups) {
    auto [least, most] =
        std::minmax_element(group.begin(), group.end(),
                            [](const PlannedRank* a, const PlannedRank* b) { return a->bytes_read < b->bytes_read; });
    const bool together = group.back()->rank - group.front()->rank + 1 == static_cast<int64_t>(group.size());
    const RankMemory& m = plan.memory_of(*group.front());
    rows.push_back({together ? ranks_text(group.front()->rank, group.back()->rank)
                             : fmt::format("{} ranks from {} on", group.size(), group.front()->rank),
                    range_text((*least)->bytes_read, (*most)->bytes_read), format_bytes(m.resident_base),
                    format_bytes(m.gather_buffers), format_bytes(m.adapter), format_bytes(m.optimizer),
                    format_bytes(m.activations), format_bytes(m.base), format_bytes(m.peak())});
  }
  return table(rows);
}

std::string step_table(const RunPlan& plan) {
  const double ranks = static_cast<double>(plan.ranks.size());
  std::vector<std::vector<std::string>> rows{{"a step", "within nodes", "between nodes", "a rank receives"}};
  auto add = [&](const std::string& name, const NetworkBytes& bytes) {
    rows.push_back({name, format_bytes(whole(bytes.within_node)), format_bytes(whole(bytes.between_nodes)),
                    format_bytes(whole(bytes.total() / ranks))});
  };
  add("base weights gathered", plan.step.image_gathers);
  add("tokens to experts and back", plan.step.token_exchange);
  add("gradients summed", plan.step.gradient_reduction);
  add("updated values", plan.step.updated_values);
  add("together", plan.step.total());
  return table(rows);
}

std::string load_table(const RunPlan& plan) {
  std::vector<std::vector<std::string>> rows{{"loading", "within nodes", "between nodes"}};
  for (const auto& [mode, bytes] : {std::pair{LoadMode::kDirect, &plan.load.direct},
                                    {LoadMode::kNode, &plan.load.node},
                                    {LoadMode::kRank0, &plan.load.rank0}}) {
    rows.push_back({fmt::format("load.mode {}{}", word_of(mode), plan.run.load_mode == mode ? " (this recipe's)" : ""),
                    format_bytes(whole(bytes->within_node)), format_bytes(whole(bytes->between_nodes))});
  }
  return table(rows);
}

OrderedJson time_json(const StepTime& time) {
  return {{"seconds", time.seconds()},
          {"tokens_a_second", time.tokens_a_second},
          {"mfu", time.mfu},
          {"bound_by", time.bound_by()},
          {"seconds_of",
           {{"products", time.products},
            {"memory", time.memory},
            {"launches", time.launches},
            {"network", time.network},
            {"pcie", time.pcie}}}};
}

OrderedJson prediction_json(const DeviceRates& rates, const StepPrediction& prediction) {
  if (!prediction.time) return nullptr;
  OrderedJson json = {{"device", rates.name},
                      {"figures_from", rates.says},
                      {"fp8_flops_unused", rates.fp8_flops},
                      {"compared_with_a_device", false}};
  json.update(time_json(*prediction.time));
  OrderedJson options = OrderedJson::array();
  for (const RunOption& option : prediction.options) {
    const Mesh& mesh = option.run.mesh;
    OrderedJson entry = {
        {"mesh", {{"ep", mesh.ep}, {"ep_fsdp", mesh.ep_fsdp}, {"fsdp", mesh.fsdp}, {"replicate", mesh.replicate}}},
        {"offload", word_of(option.run.offload)},
        {"resident", option.run.resident_bytes},
        {"recompute", word_of(option.run.recompute ? Recompute::kFull : Recompute::kNone)},
        {"peak_bytes", option.peak},
        {"host_bytes", option.host},
        {"fits", option.fits}};
    entry.update(time_json(option.time));
    options.push_back(std::move(entry));
  }
  json["meshes"] = std::move(options);
  return json;
}

std::string percent(double part) { return fmt::format("{:.1f} %", 100 * part); }

std::string prediction_text(const DeviceRates& rates, const StepPrediction& prediction) {
  if (!prediction.time) return "";
  const StepTime& time = *prediction.time;
  std::string text =
      fmt::format("predicted on {} ({}): {:.3g} s a step, {:.0f} tokens/s, {} of its bf16 peak; bound by {}\n",
                  rates.name, rates.says, time.seconds(), time.tokens_a_second, percent(time.mfu), time.bound_by());
  text += fmt::format(
      "  products {:.3g} s, memory bandwidth {:.3g} s, launches {:.3g} s, network {:.3g} s, PCIe {:.3g} s\n",
      time.products, time.memory, time.launches, time.network, time.pcie);
  text += fmt::format(
      "  This is a model of counted work, which has not been compared with a {}: trust its order, not its figures.\n",
      rates.is_gpu ? "GPU" : "run");
  std::vector<std::vector<std::string>> rows{{"best meshes", "s a step", "tokens/s", "peak", "bound by", ""}};
  for (const RunOption& option : prediction.options) {
    if (rows.size() > 3) break;
    rows.push_back({describe_option(option.run), fmt::format("{:.3g}", option.time.seconds()),
                    fmt::format("{:.0f}", option.time.tokens_a_second), format_bytes(option.peak),
                    option.time.bound_by(), option.fits ? "" : "does not fit"});
  }
  return text + "\n" + table(rows);
}

}  // namespace

OrderedJson plan_json(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict,
                      const StepPrediction& prediction) {
  const PlannedRun& run = plan.run;
  const Mesh& mesh = run.mesh;
  OrderedJson json;
  json["world"] = mesh.world_size();
  json["ranks_per_node"] = run.ranks_per_node;
  json["mesh"] = {{"ep", mesh.ep}, {"ep_fsdp", mesh.ep_fsdp}, {"fsdp", mesh.fsdp}, {"replicate", mesh.replicate}};
  json["model"] = {{"architecture", model.checkpoint.headers.config.architecture()},
                   {"weights", model.checkpoint.has_weights ? "found" : "assumed"},
                   {"bytes", model.checkpoint.headers.index.total_bytes()},
                   {"dtype", dtype_name(model.shape.dtype)}};
  json["device"] = c10::DeviceTypeName(run.device.type(), /*lower_case=*/true);
  json["batch"] = {
      {"sequences_a_step", run.batch_size},
      {"micro_batch_size", run.rows_of_micro_batch()},
      {"micro_batch_tokens", run.micro_batch_tokens == 0 ? OrderedJson() : OrderedJson(run.micro_batch_tokens)},
      {"max_length", run.max_length},
      {"micro_steps", run.micro_steps()}};
  OrderedJson ranks = OrderedJson::array();
  for (const PlannedRank& rank : plan.ranks) {
    const RankMemory& m = plan.memory_of(rank);
    ranks.push_back({{"rank", rank.rank},
                     {"node", rank.node},
                     {"bytes_read", rank.bytes_read},
                     {"resident_base_bytes", m.resident_base},
                     {"offloaded_base_bytes", m.offloaded_base},
                     {"gather_buffer_bytes", m.gather_buffers},
                     {"adapter_bytes", m.adapter},
                     {"optimizer_bytes", m.optimizer},
                     {"activation_bytes", m.activations},
                     {"activation_bytes_at_double_rows", plan.doubled_activations[rank.memory]},
                     {"loading_bytes", m.loading},
                     {"libtorch_base_bytes", m.base},
                     {"communicator_bytes", m.communicators},
                     {"host_bytes", m.host},
                     {"peak_bytes", m.peak()},
                     {"step_received_bytes", whole(rank.received.total().total())}});
  }
  json["ranks"] = std::move(ranks);
  OrderedJson stages = OrderedJson::object();  // of rank 0
  for (const MemoryStage& stage : plan.memories.front().stages) stages[stage.name] = whole(std::max(stage.bytes, 0.0));
  json["stage_bytes"] = std::move(stages);
  json["step_network_bytes"] = step_json(plan.step);
  json["busiest_rank_step_network_bytes"] = step_json(busiest(plan).received);
  json["load_network_bytes"] = {{"direct", whole(plan.load.direct.total())},
                                {"node", whole(plan.load.node.total())},
                                {"rank0", whole(plan.load.rank0.total())}};
  json["load_network_bytes_between_nodes"] = {{"direct", whole(plan.load.direct.between_nodes)},
                                              {"node", whole(plan.load.node.between_nodes)},
                                              {"rank0", whole(plan.load.rank0.between_nodes)}};
  json["snapshot_bytes"] = snapshot_bytes(model, run);
  json["memory_per_rank"] = verdict.memory_per_rank ? OrderedJson(*verdict.memory_per_rank) : OrderedJson(nullptr);
  json["fits"] = verdict.fits ? OrderedJson(*verdict.fits) : OrderedJson(nullptr);
  json["advice"] = verdict.advice.empty() ? OrderedJson(nullptr) : OrderedJson(verdict.advice);
  const std::string traffic = traffic_advice(model, run);
  json["traffic_advice"] = traffic.empty() ? OrderedJson(nullptr) : OrderedJson(traffic);
  json["decided"] = prediction.decision.empty() ? OrderedJson(nullptr) : OrderedJson(prediction.decision);
  json["prediction"] = prediction_json(run.rates, prediction);
  return json;
}

std::string plan_tables(const PlannedModel& model, const RunPlan& plan, const PlanVerdict& verdict,
                        const StepPrediction& prediction) {
  const PlannedRun& run = plan.run;
  const int64_t nodes = run.mesh.world_size() / run.ranks_per_node;
  std::string text = fmt::format(
      "{}, {} layers, {} experts, {} ({})\n", model.checkpoint.headers.config.architecture(),
      model.shape.num_hidden_layers, model.shape.num_experts,
      format_bytes(model.checkpoint.headers.index.total_bytes()),
      model.checkpoint.has_weights ? "from the files' headers" : "no weights there: the hub's layout is assumed");
  text += fmt::format("mesh: {}; {} a node, {} node{}\n", run.mesh.describe(), run.ranks_per_node, nodes,
                      nodes == 1 ? "" : "s");
  if (!prediction.decision.empty()) text += fmt::format("decided: {}\n", prediction.decision);
  const std::string at_once = run.micro_batch_tokens == 0 ? fmt::format("{}", run.micro_batch_size)
                                                          : fmt::format("{} tokens", run.micro_batch_tokens);
  text += fmt::format("batch: {} sequences of {} tokens per step, {} at a time on a rank, {} micro-step{}\n\n",
                      run.batch_size, run.max_length, at_once, run.micro_steps(), run.micro_steps() == 1 ? "" : "s");
  text += memory_table(plan) + "\n" + step_table(plan) + "\n" + load_table(plan) + "\n";
  const RankMemory& fullest = plan.memories.front();
  text += fmt::format(
      "fullest moment: {} on rank 0. Every sequence is taken to be as long as data.max_length, and tokens to spread "
      "evenly over experts{}.\n",
      fullest.loading > fullest.training() ? "loading" : "the " + fullest_stage(fullest).name,
      run.mesh.ep == 1 ? ""
                       : fmt::format(";\nif twice as many come to a rank's experts, activations are {}",
                                     format_bytes(plan.doubled_activations.front())));
  if (fullest.offloaded_base > 0)
    text += fmt::format(
        "mesh.offload: {} of base weights stay in the host's memory{}; each is copied to the device twice a "
        "micro-step.\n",
        format_bytes(fullest.offloaded_base),
        run.device.is_cpu() ? ", counted here"
                            : fmt::format(" on rank 0, and take {} there: libtorch rounds pinned memory to powers of "
                                          "two, and an image is read beside them",
                                          format_bytes(fullest.host)));
  if (run.device.is_cuda())
    text += fmt::format(
        "planned for CUDA: memory of the GPU. Of the column libtorch {} are NCCL's buffers and the rest CUDA's "
        "context, "
        "both by published figures; what the caching allocator cannot use again comes on top.\n",
        format_bytes(fullest.communicators));
  if (const std::string advice = traffic_advice(model, run); !advice.empty()) text += advice + "\n";
  text += fmt::format("a snapshot takes {} on disk; save.keep of them are kept, and one more while it is written\n",
                      format_bytes(snapshot_bytes(model, run)));
  if (verdict.fits) {
    text += fmt::format("{} in {} a rank{}\n", *verdict.fits ? "fits" : "does not fit",
                        format_bytes(*verdict.memory_per_rank), verdict.advice.empty() ? "" : ": " + verdict.advice);
  }
  if (const std::string predicted = prediction_text(run.rates, prediction); !predicted.empty())
    text += "\n" + predicted;
  return text;
}

}  // namespace moraine
