#include "adapter/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moraine {
namespace {

template <typename Body>
void for_each_chunk(int64_t n, const Body& body) {
  for (int64_t begin = 0; begin < n; begin += kUpdatedAtOnce) body(begin, std::min(kUpdatedAtOnce, n - begin));
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
  for (AdapterSection* section : {&adapter.dense(), &adapter.experts()})
    moments_.push_back({section, at::zeros({section->owned_size}, section->values.options()),
                        at::zeros({section->owned_size}, section->values.options())});
}

const AdamW::Moments& AdamW::moments_of(const AdapterSection& section) const {
  return *std::find_if(moments_.begin(), moments_.end(), [&](const Moments& m) { return m.section == &section; });
}

void AdamW::step(double learning_rate, double grad_scale) {
  at::NoGradGuard no_grad;
  ++num_steps_;
  const auto [beta1, beta2] = betas_;
  const double step_size = learning_rate / (1.0 - std::pow(beta1, num_steps_));
  const double correction2_sqrt = std::sqrt(1.0 - std::pow(beta2, num_steps_));
  for (Moments& m : moments_) {
    for_each_chunk(m.section->owned_size, [&](int64_t begin, int64_t n) {
      at::Tensor value = m.section->values.narrow(0, m.section->owned_begin + begin, n);
      at::Tensor exp_avg = m.exp_avg.narrow(0, begin, n), exp_avg_sq = m.exp_avg_sq.narrow(0, begin, n);
      const at::Tensor grad =
          at::mul(m.section->grads.narrow(0, m.section->owned_begin + begin, n), grad_scale).to(at::kFloat);
      value.mul_(1.0 - learning_rate * weight_decay_);
      exp_avg.lerp_(grad, 1.0 - beta1);
      exp_avg_sq.mul_(beta2).addcmul_(grad, grad, 1.0 - beta2);
      value.addcdiv_(exp_avg, exp_avg_sq.sqrt().div_(correction2_sqrt).add_(eps_), -step_size);
    });
  }
}

}  // namespace moraine
