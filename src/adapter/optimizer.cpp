#include "adapter/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "adapter/module_pattern.h"
#include "base/error.h"
#include "base/text.h"
#include "kernels/row_ops.h"

namespace moraine {
namespace {

template <typename Body>
void for_each_chunk(int64_t n, const Body& body) {
  for (int64_t begin = 0; begin < n; begin += kUpdatedAtOnce) body(begin, std::min(kUpdatedAtOnce, n - begin));
}

constexpr const char* kRateKey = "train.learning_rate_pattern";

void check_rate_patterns(const AdapterState& adapter, const PatternMap<double>& map) {
  const ModulePattern<double> pattern(map, kRateKey);
  std::vector<bool> used(map.size());
  for (const AdapterEntry& entry : adapter.entries())
    if (const auto found = pattern.find(module_name_in(adapter.peft_class(), entry.module.name))) used[*found] = true;
  const auto unused = std::find(used.begin(), used.end(), false);
  if (unused != used.end())
    throw input_error(kRateKey,
                      quote_text(map[unused - used.begin()].first) +
                          " matches no adapted weight, or only ones that a key before it matches",
                      "keys are regular expressions over the ends of names");
}

}  // namespace

double scheduled_learning_rate(const TrainConfig& config, int64_t step, int64_t total_steps) {
  const double peak = config.learning_rate;
  if (step < config.warmup_steps) return peak * step / std::max<int64_t>(1, config.warmup_steps);
  const double span = std::max<int64_t>(1, total_steps - config.warmup_steps);
  if (config.scheduler == Scheduler::kLinear) return peak * std::max(0.0, (total_steps - step) / span);
  if (config.scheduler == Scheduler::kCosine) {
    const double progress = (step - config.warmup_steps) / span;
    return peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
  }
  return peak;
}

AdamW::AdamW(AdapterState& adapter, const TrainConfig& config)
    : betas_(config.betas), eps_(config.eps), weight_decay_(config.weight_decay) {
  check_rate_patterns(adapter, config.learning_rate_pattern);
  for (AdapterSection* section : {&adapter.dense(), &adapter.experts()}) {
    moments_.push_back({section, at::zeros({section->owned_size}, section->values.options()),
                        at::zeros({section->owned_size}, section->values.options())});
    rates_.push_back(rates_of(adapter, section == &adapter.experts(), config));
  }
}

std::vector<AdamW::Rate> AdamW::rates_of(const AdapterState& adapter, bool experts, const TrainConfig& config) {
  const ModulePattern<double> factors(config.learning_rate_pattern, kRateKey);
  std::vector<Rate> rates;
  const auto add = [&](int64_t begin, int64_t count, double factor) {
    if (rates.empty() || rates.back().factor != factor) rates.push_back({begin, 0, factor});
    rates.back().end = begin + count;
  };
  for (const AdapterEntry& entry : adapter.entries()) {
    const LoraModule& m = entry.module;
    const double factor = factors.of(module_name_in(adapter.peft_class(), m.name), 1);
    // LoRA+ leaves embeddings out (PEFT gives them a rate of their own).
    const double factor_b = m.is_embedding() ? factor : factor * config.learning_rate_b_ratio;
    if (m.has_expert_a() == experts) add(entry.a_offset, adapter.a(entry).numel(), factor);
    if (m.has_expert_b() == experts) add(entry.b_offset, adapter.b(entry).numel(), factor_b);
  }
  if (!rates.empty()) rates.back().end = std::numeric_limits<int64_t>::max();  // the section's padding
  return rates;
}

const AdamW::Moments& AdamW::moments_of(const AdapterSection& section) const {
  return *std::find_if(moments_.begin(), moments_.end(), [&](const Moments& m) { return m.section == &section; });
}

void AdamW::step(double learning_rate, double grad_scale) {
  at::NoGradGuard no_grad;
  ++num_steps_;
  for (size_t i = 0; i < moments_.size(); ++i) {
    const int64_t first = moments_[i].section->owned_begin, last = first + moments_[i].section->owned_size;
    for (const Rate& rate : rates_[i]) {
      const int64_t begin = std::max(first, rate.begin), end = std::min(last, rate.end);
      for_each_chunk(end - begin, [&](int64_t done, int64_t n) {
        update(moments_[i], begin - first + done, n, learning_rate * rate.factor, grad_scale);
      });
    }
  }
}

// `begin` counts the elements that this rank owns.
void AdamW::update(Moments& m, int64_t begin, int64_t n, double learning_rate, double grad_scale) {
  const auto [beta1, beta2] = betas_;
  const double step_size = learning_rate / (1.0 - std::pow(beta1, num_steps_));
  const double correction2_sqrt = std::sqrt(1.0 - std::pow(beta2, num_steps_));
  at::Tensor value = m.section->values.narrow(0, m.section->owned_begin + begin, n);
  at::Tensor exp_avg = m.exp_avg.narrow(0, begin, n), exp_avg_sq = m.exp_avg_sq.narrow(0, begin, n);
  const at::Tensor grads = m.section->grads.narrow(0, m.section->owned_begin + begin, n);
  if (value.is_cpu() && grads.scalar_type() == at::kDouble) {
    const kernels::AdamWStep step{
        learning_rate,    weight_decay_, beta1, beta2, eps_, 1.0 - std::pow(beta1, num_steps_),
        correction2_sqrt, grad_scale};
    at::parallel_for(0, n, 16384, [&](int64_t first, int64_t end) {
      kernels::adamw(step, end - first, grads.const_data_ptr<double>() + first, value.mutable_data_ptr<float>() + first,
                     exp_avg.mutable_data_ptr<float>() + first, exp_avg_sq.mutable_data_ptr<float>() + first);
    });
    return;
  }
  const at::Tensor grad = at::mul(grads, grad_scale).to(at::kFloat);
  value.mul_(1.0 - learning_rate * weight_decay_);
  exp_avg.lerp_(grad, 1.0 - beta1);
  exp_avg_sq.mul_(beta2).addcmul_(grad, grad, 1.0 - beta2);
  value.addcdiv_(exp_avg, exp_avg_sq.sqrt().div_(correction2_sqrt).add_(eps_), -step_size);
}

}  // namespace moraine
