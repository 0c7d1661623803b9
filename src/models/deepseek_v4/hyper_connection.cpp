#include "models/deepseek_v4/hyper_connection.h"

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "models/deepseek_v4/token_runs.h"
#include "nn/whole_vectors.h"

namespace moraine::deepseek_v4 {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// fn · rms_norm(streams as one vector) in fp32. The norm has no weights, so it is a factor of the product: neither
// normed nor fp32 streams are kept.
class ProjectStreams : public torch::autograd::Function<ProjectStreams> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& streams, const at::Tensor& fn_WD, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto options = streams.options().dtype(at::kFloat);
    at::Tensor product_TW = at::empty({streams.size(0), fn_WD.size(0)}, options),
               norm = at::empty({streams.size(0), 1}, options);
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const at::Tensor flat = streams.narrow(0, first, count).flatten(1).to(at::kFloat);
      at::Tensor product = product_TW.narrow(0, first, count);
      at::mm_out(product, flat, fn_WD.t());
      norm.narrow(0, first, count).copy_(at::linalg_vector_norm(flat, 2, at::IntArrayRef{-1}, /*keepdim=*/true));
    });
    const at::Tensor rstd = norm.square_().div_(static_cast<double>(fn_WD.size(1))).add_(eps).rsqrt_();
    context->save_for_backward({streams, fn_WD, product_TW, rstd});
    return product_TW * rstd;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &streams = saved[0], &fn_WD = saved[1], &product_TW = saved[2], &rstd = saved[3];
    // d rstd / d x = -rstd³ · x / n
    const at::Tensor along_x =
        (grads[0] * product_TW).sum(-1, /*keepdim=*/true).mul_(rstd.pow(3)).div_(-static_cast<double>(fn_WD.size(1)));
    const at::Tensor d_product = grads[0] * rstd;
    at::Tensor d_streams = at::empty(streams.sizes(), streams.options());
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const at::Tensor flat = streams.narrow(0, first, count).flatten(1).to(at::kFloat);
      at::Tensor d_flat =
          at::mm(d_product.narrow(0, first, count), fn_WD).addcmul_(flat, along_x.narrow(0, first, count));
      d_streams.narrow(0, first, count).copy_(d_flat.view({count, streams.size(1), streams.size(2)}));
    });
    return {d_streams, at::Tensor(), at::Tensor()};
  }
};

// Σ_n weight[t, n] · streams[t, n] in fp32, rounded once.
class SumStreams : public torch::autograd::Function<SumStreams> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& streams, const at::Tensor& weight_TN) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({streams, weight_TN});
    at::Tensor sum_TD = at::empty({streams.size(0), streams.size(2)}, streams.options());
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const at::Tensor weight = weight_TN.narrow(0, first, count).unsqueeze(1);
      sum_TD.narrow(0, first, count).copy_(at::bmm(weight, streams.narrow(0, first, count).to(at::kFloat)).squeeze(1));
    });
    return sum_TD;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &streams = saved[0], &weight_TN = saved[1];
    at::Tensor d_streams = at::empty(streams.sizes(), streams.options()), d_weight = at::empty_like(weight_TN);
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const at::Tensor d_sum = grads[0].narrow(0, first, count).to(at::kFloat);
      d_weight.narrow(0, first, count)
          .copy_(at::bmm(streams.narrow(0, first, count).to(at::kFloat), d_sum.unsqueeze(2)).squeeze(2));
      d_streams.narrow(0, first, count).copy_(weight_TN.narrow(0, first, count).unsqueeze(2) * d_sum.unsqueeze(1));
    });
    return {d_streams, d_weight};
  }
};

// streams'[t, k] = post[t, k] · y[t] + Σ_j comb[t, j, k] · streams[t, j], weights rounded to the streams' dtype, summed
// in fp32.
class WriteBack : public torch::autograd::Function<WriteBack> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& streams,
                            const at::Tensor& post_fp32, const at::Tensor& comb_fp32) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::ScalarType dtype = streams.scalar_type();
    const at::Tensor post = post_fp32.to(dtype).to(at::kFloat), comb = comb_fp32.to(dtype).to(at::kFloat);
    context->save_for_backward({y, streams, post, comb});
    at::Tensor out = at::empty(streams.sizes(), streams.options());
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const auto run = [&](const at::Tensor& x) { return x.narrow(0, first, count).to(at::kFloat); };
      at::Tensor mixed = at::bmm(run(comb).transpose(1, 2), run(streams));
      out.narrow(0, first, count).copy_(mixed.addcmul_(run(post).unsqueeze(2), run(y).unsqueeze(1)));
    });
    return out;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &y = saved[0], &streams = saved[1], &post = saved[2], &comb = saved[3];
    at::Tensor d_y = at::empty(y.sizes(), y.options()), d_streams = at::empty(streams.sizes(), streams.options());
    at::Tensor d_post = at::empty_like(post), d_comb = at::empty_like(comb);
    for_each_run(streams, [&](int64_t first, int64_t count) {
      const auto run = [&](const at::Tensor& x) { return x.narrow(0, first, count).to(at::kFloat); };
      const at::Tensor d = run(grads[0]);
      d_y.narrow(0, first, count).copy_(at::bmm(run(post).unsqueeze(1), d).squeeze(1));
      d_post.narrow(0, first, count).copy_(at::bmm(d, run(y).unsqueeze(2)).squeeze(2));
      d_comb.narrow(0, first, count).copy_(at::bmm(run(streams), d.transpose(1, 2)));
      d_streams.narrow(0, first, count).copy_(at::bmm(run(comb), d));
    });
    return {d_y, d_streams, d_post, d_comb};
  }
};

// Tokens lie last here: sums over N then run along whole rows of tokens. dim 0 is j, dim 1 is k.
class Sinkhorn : public torch::autograd::Function<Sinkhorn> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits_TNN, int64_t iters, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward({logits_TNN});
    context->saved_data["iters"] = iters;
    context->saved_data["eps"] = eps;
    return run(logits_TNN, iters, eps, nullptr).permute({2, 0, 1}).contiguous();
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const at::Tensor logits_TNN = context->get_saved_variables()[0];
    Rounds rounds;
    run(logits_TNN, context->saved_data["iters"].toInt(), context->saved_data["eps"].toDouble(), &rounds);
    at::Tensor d = grads[0].permute({1, 2, 0}).contiguous();
    // y = x / (sum of x + eps): dx = (dy - sum of dy · y) / (sum of x + eps)
    for (auto round = rounds.normalised.rbegin(); round != rounds.normalised.rend(); ++round)
      d = (d - (d * round->y).sum(round->dim, /*keepdim=*/true)).div_(round->denominator);
    d = (d - (d * rounds.softmax).sum(1, /*keepdim=*/true)).mul_(rounds.softmax);
    return {d.permute({2, 0, 1}).contiguous(), at::Tensor(), at::Tensor()};
  }

 private:
  struct Round {
    int64_t dim;
    at::Tensor y, denominator;
  };
  struct Rounds {
    at::Tensor softmax;
    std::vector<Round> normalised;
  };

  static at::Tensor run(const at::Tensor& logits_TNN, int64_t iters, double eps, Rounds* keep) {
    const auto softmax_TNN = [](const at::Tensor& x_TNN) {
      return at::softmax(x_TNN.permute({1, 2, 0}).contiguous(), 1).permute({2, 0, 1});
    };
    at::Tensor x = on_whole_vectors(logits_TNN, softmax_TNN).permute({1, 2, 0}).contiguous();
    if (keep) keep->softmax = x;
    x = x + eps;
    const auto normalise = [&](int64_t dim) {
      at::Tensor denominator = x.sum(dim, /*keepdim=*/true).add_(eps);
      x = x / denominator;
      if (keep) keep->normalised.push_back({dim, x, denominator});
    };
    normalise(0);
    for (int64_t i = 1; i < iters; ++i) {
      normalise(1);
      normalise(0);
    }
    return x;
  }
};

// Weights for reading: σ(·) + eps.
at::Tensor reading_weights(const at::Tensor& mix_TN, const at::Tensor& scale, const at::Tensor& base_N, double eps) {
  return at::sigmoid(mix_TN * scale + base_N) + eps;
}

}  // namespace

at::Tensor sinkhorn(const at::Tensor& logits_TNN, int64_t iters, double eps) {
  return Sinkhorn::apply(logits_TNN, iters, eps);
}

HyperConnection connect(const at::Tensor& streams_TND, const StreamWeights& weights, const StreamConstants& constants) {
  const int64_t N = streams_TND.size(1);
  const at::Tensor mix_TW = ProjectStreams::apply(streams_TND, weights.fn_WD, constants.rms_norm_eps);
  const at::Tensor &scale = weights.scale, &base = weights.base_W;
  const at::Tensor pre = reading_weights(mix_TW.narrow(1, 0, N), scale[0], base.narrow(0, 0, N), constants.hc_eps);
  at::Tensor post = 2 * at::sigmoid(mix_TW.narrow(1, N, N) * scale[1] + base.narrow(0, N, N));
  const at::Tensor comb_logits = mix_TW.narrow(1, 2 * N, N * N) * scale[2] + base.narrow(0, 2 * N, N * N);
  return {SumStreams::apply(streams_TND, pre), post,
          sinkhorn(comb_logits.unflatten(1, {N, N}), constants.sinkhorn_iters, constants.hc_eps)};
}

at::Tensor write_back(const at::Tensor& y_TD, const at::Tensor& streams_TND, const HyperConnection& connection) {
  return WriteBack::apply(y_TD, streams_TND, connection.post_TN, connection.comb_TNN);
}

at::Tensor collapse_streams(const at::Tensor& streams_TND, const StreamWeights& weights,
                            const StreamConstants& constants) {
  const at::Tensor mix_TN = ProjectStreams::apply(streams_TND, weights.fn_WD, constants.rms_norm_eps);
  return SumStreams::apply(streams_TND, reading_weights(mix_TN, weights.scale, weights.base_W, constants.hc_eps));
}

}  // namespace moraine::deepseek_v4
