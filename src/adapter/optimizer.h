// AdamW over the adapter's flat buffers, gradient clipping, learning-rate schedules.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <string>
#include <vector>

#include "adapter/adapter_state.h"
#include "config/recipe.h"

namespace moraine {

// Learning rate of step `step` (from 0) of `total_steps`, as transformers'
// get_{cosine,linear,constant}_schedule_with_warmup count: the first step of a warm-up has 0.
double scheduled_learning_rate(const TrainConfig& config, int64_t step, int64_t total_steps);

// Elements updated at a time: temporaries stay small whatever the adapter's size.
inline constexpr int64_t kUpdatedAtOnce = int64_t{1} << 20;

// Decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), element for element as
// torch.optim.AdamW computes it. The factors B may have another learning rate (LoRA+, Hayou et al. 2024,
// https://arxiv.org/abs/2402.12354), and so may modules by name; weight decay is by an element's own rate.
class AdamW {
 public:
  // Throws an input error for a key of train.learning_rate_pattern that is no regular expression or matches no module.
  AdamW(AdapterState& adapter, const TrainConfig& config);

  // One update of the elements that this rank owns, with gradients multiplied by `grad_scale` (clipping).
  // `learning_rate` is that of A where no pattern matches.
  void step(double learning_rate, double grad_scale);

  // What a snapshot holds: the number of updates so far, and for each section of the adapter the moments of the
  // elements that this rank owns.
  struct Moments {
    AdapterSection* section;
    at::Tensor exp_avg, exp_avg_sq;  // fp32 [owned_size]
  };
  const Moments& moments_of(const AdapterSection& section) const;
  int64_t num_steps() const { return num_steps_; }
  void set_num_steps(int64_t steps) { num_steps_ = steps; }

 private:
  // Elements [begin, end) of a section, whose learning rate has this factor. Neighbours differ in it.
  struct Rate {
    int64_t begin, end;
    double factor;
  };
  static std::vector<Rate> rates_of(const AdapterState& adapter, bool experts, const TrainConfig& config);
  void update(Moments& moments, int64_t begin, int64_t count, double learning_rate, double grad_scale);

  std::vector<Moments> moments_;
  std::vector<std::vector<Rate>> rates_;  // of each of them
  std::array<double, 2> betas_;
  double eps_, weight_decay_;
  int64_t num_steps_ = 0;
};

}  // namespace moraine
