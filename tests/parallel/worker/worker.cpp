// Thousands of random and degenerate routings through the expert-parallel exchange, each against a reference without
// ranks:
//
//   routing_worker RANKS CASES
//
// Every rank can make all ranks' tokens from the case's number, so the reference needs no exchange: outputs and
// gradients of this rank's tokens with all experts, and gradients of this rank's experts from all tokens. Prints "CASES
// routings equal".
//
// Shape suffixes: T tokens, K experts per token, E experts, D hidden.
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <random>

#include "base/cpu_features.h"
#include "base/process.h"
#include "distributed/collectives/mesh_groups.h"
#include "distributed/launch/local_ranks.h"
#include "distributed/launch/run_rank.h"
#include "parallel/expert_parallel.h"

namespace moraine {
namespace {

struct Tokens {
  at::Tensor x_TD, weights_TK, indices_TK, grad_TD;
};

struct Case {
  int64_t num_experts, k, hidden, row_alignment;
  at::Tensor scale_ED;         // the experts: y = x · tanh(x · scale)
  std::vector<Tokens> tokens;  // by rank
};

enum class Routing { kRandom, kOneExpert, kFirstExperts, kLastExperts, kCount };

// `k` different experts per token, rising.
at::Tensor choose(Routing routing, int64_t tokens, int64_t k, int64_t num_experts, std::mt19937_64& random) {
  at::Tensor indices = at::empty({tokens, k}, at::kLong);
  std::vector<int64_t> experts(num_experts);
  const int64_t favourite = static_cast<int64_t>(random() % (num_experts - k + 1));
  for (int64_t t = 0; t < tokens; ++t) {
    std::iota(experts.begin(), experts.end(), 0);
    std::vector<int64_t> chosen;
    switch (routing) {
      case Routing::kOneExpert:
        for (int64_t j = 0; j < k; ++j) chosen.push_back(favourite + j);
        break;
      case Routing::kFirstExperts:
        for (int64_t j = 0; j < k; ++j) chosen.push_back(j);
        break;
      case Routing::kLastExperts:
        for (int64_t j = 0; j < k; ++j) chosen.push_back(num_experts - k + j);
        break;
      default:
        std::shuffle(experts.begin(), experts.end(), random);
        chosen.assign(experts.begin(), experts.begin() + k);
        std::sort(chosen.begin(), chosen.end());
    }
    for (int64_t j = 0; j < k; ++j) indices[t][j] = chosen[j];
  }
  return indices;
}

Case make_case(int64_t number, int64_t ranks) {
  std::mt19937_64 random(number);
  at::manual_seed(number);
  Case c;
  c.num_experts = ranks + static_cast<int64_t>(random() % 6);
  c.k = 1 + static_cast<int64_t>(random() % std::min<int64_t>(3, c.num_experts));
  c.hidden = 1 + static_cast<int64_t>(random() % 5);
  c.row_alignment = random() % 2 ? 1 : 16;
  c.scale_ED = at::randn({c.num_experts, c.hidden});
  const Routing whole_world = static_cast<Routing>(random() % static_cast<int>(Routing::kCount));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t tokens = random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % 7);
    const Routing routing =
        random() % 2 ? whole_world : static_cast<Routing>(random() % static_cast<int>(Routing::kCount));
    c.tokens.push_back({at::randn({tokens, c.hidden}), at::rand({tokens, c.k}),
                        choose(routing, tokens, c.k, c.num_experts, random), at::randn({tokens, c.hidden})});
  }
  return c;
}

at::Tensor expert(const at::Tensor& x, const at::Tensor& scale_D) { return x * at::tanh(x * scale_D); }

// [output, d x, d weights, d scale] of one rank's tokens, without any exchange.
std::vector<at::Tensor> reference(const Case& c, const Tokens& tokens) {
  at::AutoGradMode enable_grad(true);
  at::Tensor x = tokens.x_TD.clone().requires_grad_(), weights = tokens.weights_TK.clone().requires_grad_();
  at::Tensor scale = c.scale_ED.clone().requires_grad_();
  at::Tensor out = at::zeros_like(x) + 0 * x + 0 * scale.sum() + 0 * weights.sum();
  for (int64_t j = 0; j < c.k; ++j) {
    const at::Tensor chosen = tokens.indices_TK.select(1, j);
    out = out + weights.select(1, j).unsqueeze(1) * expert(x, scale.index_select(0, chosen));
  }
  std::vector<at::Tensor> grads = torch::autograd::grad({out}, {x, weights, scale}, {tokens.grad_TD});
  return {out.detach(), grads[0], grads[1], grads[2]};
}

std::vector<at::Tensor> through_ranks(const Case& c, const Tokens& tokens, ProcessGroup& group) {
  const ExpertParallel experts(c.num_experts, c.row_alignment, group);
  const ExpertRange local = experts.local_experts();
  at::AutoGradMode enable_grad(true);
  at::Tensor x = tokens.x_TD.clone().requires_grad_(), weights = tokens.weights_TK.clone().requires_grad_();
  at::Tensor scale = c.scale_ED.narrow(0, local.first, local.count).clone().requires_grad_();
  const DispatchPlan plan = experts.plan(tokens.indices_TK);
  const at::Tensor rows = experts.dispatch(x, plan);
  std::vector<at::Tensor> outputs;
  int64_t begin = 0;
  for (int64_t e = 0; e < local.count; begin += plan.rows_of_expert[e++])
    outputs.push_back(expert(rows.narrow(0, begin, plan.rows_of_expert[e]), scale[e]));
  const at::Tensor out = experts.combine(at::cat(outputs), weights, plan);
  std::vector<at::Tensor> grads = torch::autograd::grad({out}, {x, weights, scale}, {tokens.grad_TD});
  return {out.detach(), grads[0], grads[1], grads[2]};
}

void expect_equal(const at::Tensor& got, const at::Tensor& wanted, const char* what, int64_t number) {
  const double scale = wanted.numel() ? wanted.abs().max().item<double>() : 0;
  const double difference = wanted.numel() ? (got - wanted).abs().max().item<double>() : 0;
  if (got.sizes() != wanted.sizes() || !(difference <= 1e-5 * std::max(1.0, scale))) {
    throw run_error(fmt::format("routing {}", number),
                    fmt::format("{} differs from the reference by {}", what, difference));
  }
}

int run(Control& control, int64_t cases) {
  const WorldInfo& world = control.world();
  BackendFactory backends(world, BackendKind::kGloo, control.timeout());
  MeshGroups groups = make_mesh_groups(control, backends, Mesh::make(world.world_size, {.ep = world.world_size}));
  for (int64_t number = 0; number < cases; ++number) {
    const Case c = make_case(number, world.world_size);
    const std::vector<at::Tensor> got = through_ranks(c, c.tokens[world.rank], *groups.tokens);
    const std::vector<at::Tensor> wanted = reference(c, c.tokens[world.rank]);
    expect_equal(got[0], wanted[0], "the output", number);
    expect_equal(got[1], wanted[1], "the tokens' gradient", number);
    expect_equal(got[2], wanted[2], "the weights' gradient", number);
    at::Tensor scale_grad = at::zeros_like(c.scale_ED);
    for (const Tokens& tokens : c.tokens) scale_grad += reference(c, tokens)[3];
    const ExpertRange local = expert_range(c.num_experts, world.world_size, world.rank);
    expect_equal(got[3], scale_grad.narrow(0, local.first, local.count), "the experts' gradient", number);
  }
  control.barrier("routings");
  if (world.rank == 0) fmt::print("{} routings equal\n", cases);
  return 0;
}

}  // namespace
}  // namespace moraine

int main(int argc, char** argv) {
  using namespace moraine;
  make_write_failures_errors();
  settle_cpu_computation();
  if (argc != 3) return 2;
  const auto rank = [&] {
    return run_rank(world_from_environment(), ControlOptions::from_environment(),
                    [&](Control& control) { return run(control, std::stoll(argv[2])); });
  };
  end_process(run_local_ranks(std::stoll(argv[1]), rank));
}
