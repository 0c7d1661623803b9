#include "checkpoint/fake_checkpoint.h"

namespace moraine::testing_support {
namespace {

// A parameter of all experts, stored fused or a tensor for each half of each expert.
void add_experts(FakeModel& model, ImageSpec& image, const std::string& name, std::vector<int64_t> shape, DType stored,
                 DType wanted, bool fused) {
  ParamSpec param{name, ParamKind::kExperts, shape, wanted, {}};
  const int64_t halves = shape[1] % 2 == 0 ? 2 : 1;
  const std::vector<int64_t> piece{shape[1] / halves, shape[2]};
  if (fused) {
    param.sources.push_back({name + ".fused", shape, 0});
    model.checkpoint.add(name + ".fused", shape, stored);
  } else {
    for (int64_t i = 0; i < shape[0] * halves; ++i) {
      param.sources.push_back({name + "." + std::to_string(i), piece, i * num_elements(piece)});
      model.checkpoint.add(param.sources.back().name, piece, stored);
    }
  }
  image.params.push_back(std::move(param));
}

void add_dense(FakeModel& model, ImageSpec& image, const std::string& name, std::vector<int64_t> shape, DType stored,
               DType wanted) {
  image.params.push_back({name, ParamKind::kDense, shape, wanted, {{name, shape, 0}}});
  model.checkpoint.add(name, shape, stored);
}

}  // namespace

FakeModel random_model(Random& random) {
  FakeModel model;
  model.num_experts = random.one_of<int64_t>({1, 2, 3, 5, 8, 16, 17, 160});
  const int64_t layers = random.between(1, 2);
  ImageSpec root{"root", ImageKind::kRoot, {}};
  add_dense(model, root, "embed", {random.between(1, 50), random.between(1, 9)}, DType::kF32, DType::kBF16);
  model.specs.push_back(root);
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::string name = "layers." + std::to_string(layer);
    ImageSpec dense{name + ".dense", ImageKind::kDense, {}}, experts{name + ".experts", ImageKind::kExperts, {}};
    for (int64_t i = random.between(1, 4); i > 0; --i) {
      add_dense(model, dense, name + ".dense" + std::to_string(i), {random.between(1, 40), random.between(1, 9)},
                random.one_of({DType::kF32, DType::kBF16, DType::kF16}), random.one_of({DType::kF32, DType::kBF16}));
    }
    const int64_t E = model.num_experts, I = random.between(1, 6), H = random.between(1, 6);
    const bool fused = random.between(0, 1);
    switch (random.between(0, 3)) {
      case 0:
        break;  // a layer without experts
      case 1:
        add_experts(model, experts, name + ".w", {E, 2 * I, H}, random.one_of({DType::kF32, DType::kBF16, DType::kF16}),
                    random.one_of({DType::kF32, DType::kBF16}), fused);
        break;
      case 2:  // FP8, block scales
        add_experts(model, experts, name + ".w", {E, 2 * I, 4 * H}, DType::kF8E4M3, DType::kF8E4M3, fused);
        add_experts(model, experts, name + ".scale", {E, 2, H}, DType::kF8E8M0, DType::kF8E8M0, fused);
        break;
      default:  // FP4, two a byte
        add_experts(model, experts, name + ".w", {E, 2 * I, 4 * H}, DType::kI8, DType::kI8, fused);
        add_experts(model, experts, name + ".scale", {E, 2 * I, H}, DType::kF8E8M0, DType::kF8E8M0, fused);
    }
    model.specs.push_back(std::move(dense));
    model.specs.push_back(std::move(experts));
  }
  return model;
}

}  // namespace moraine::testing_support
