#include "adapter/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <memory>
#include <mutex>
#include <utility>

#include "adapter/target_kind.h"
#include "base/error.h"
#include "formats/checkpoint_writer.h"
#include "models/output_head.h"
#include "models/param_specs.h"

// Shape suffixes: E experts (1 for a linear layer), R rank, O output features, I input features, N rows of one or more
// experts' [O, I].
namespace moraine {
namespace {

struct Factors {
  at::Tensor a_ERI, b_EOR;
};

// What is added to the weights of a module, whose rows are outputs, or, `transposed`, inputs: (B·A)ᵀ = Aᵀ·Bᵀ.
struct MergedProduct {
  size_t module;
  bool transposed;
  friend bool operator==(const MergedProduct&, const MergedProduct&) = default;
};

// The factors of the modules that were asked for last: a layer's tensors follow each other in a checkpoint, so there
// are only few at a time, and a module of experts is large.
class RecentFactors {
 public:
  explicit RecentFactors(const AdapterFactors& weights) : weights_(weights) {}

  std::shared_ptr<const Factors> of(const MergedProduct& product) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(recent_.begin(), recent_.end(), [&](const auto& entry) { return entry.first == product; });
    if (found != recent_.end()) {
      recent_.splice(recent_.begin(), recent_, found);
    } else {
      recent_.emplace_front(product, std::make_shared<Factors>(read(product)));
      if (recent_.size() > kKept) recent_.pop_back();
    }
    return recent_.front().second;
  }

 private:
  static constexpr size_t kKept = 4;

  Factors read(const MergedProduct& product) const {
    at::Tensor a = weights_.read_a(product.module), b = weights_.read_b(product.module);
    if (a.dim() == 2) a = a.unsqueeze(0), b = b.unsqueeze(0);
    if (product.transposed) return {b.transpose(1, 2), a.transpose(1, 2).contiguous()};
    return {a, b.contiguous()};
  }

  const AdapterFactors& weights_;
  std::mutex mutex_;
  std::list<std::pair<MergedProduct, std::shared_ptr<const Factors>>> recent_;
};

// Adds scaling·B·A to rows of the module's weights [E·O, I] (transposed [E·I, O]), those from `first` on.
void add_product(const Factors& factors, double scaling, int64_t first, const at::Tensor& rows_NI) {
  const auto& [a_ERI, b_EOR] = factors;
  const int64_t rows_of_expert = b_EOR.size(1);
  for (int64_t done = 0; done < rows_NI.size(0);) {
    const int64_t expert = (first + done) / rows_of_expert, row = (first + done) % rows_of_expert;
    const int64_t count = std::min(rows_NI.size(0) - done, rows_of_expert - row);
    // Product, scaling and sum each rounded to fp32, as PEFT does.
    rows_NI.narrow(0, done, count).add_(at::mm(b_EOR[expert].narrow(0, row, count), a_ERI[expert]).mul_(scaling));
    done += count;
  }
}

const ParamSpec& adapted_param(const ImageSpec& image, const LoraModule& module) {
  const std::string name = is_parameter(module) ? module.local_name : module.local_name + ".weight";
  const auto found = std::find_if(image.params.begin(), image.params.end(),
                                  [&](const ParamSpec& param) { return param.name == name; });
  MORAINE_ASSERT(found != image.params.end(), "a module that LoRA can adapt has a parameter: " + module.name);
  return *found;
}

// A tied matrix is stored once: with the product of one of its two uses it would be wrong for the other.
void check_not_tied(const OpenedCheckpoint& checkpoint, const std::vector<LoraModule>& modules,
                    const std::filesystem::path& adapter) {
  if (own_head(checkpoint.specs[kRootImage])) return;
  for (const LoraModule& module : modules) {
    if (module.in_layer()) continue;
    throw input_error(
        adapter.string(),
        fmt::format("adapts {}, whose weight this model shares between embedding and output head", module.name),
        "store lm_head.weight in the checkpoint too, with tie_word_embeddings false, and merge into "
        "that; or use the adapter as it is");
  }
}

}  // namespace

MergedCheckpoint merge_adapter(const std::filesystem::path& model, const std::vector<WeightedAdapter>& adapters,
                               const std::filesystem::path& out, uint64_t max_file_bytes, int num_threads,
                               bool keep_format) {
  check_new_folder(out);
  const OpenedCheckpoint checkpoint = open_checkpoint(model, DtypeChoice::kBFloat16);
  const std::unique_ptr<AdapterFactors> factors = open_factors(checkpoint.layout(), adapters);
  warn_of_unmatched_targets(checkpoint.layout(), adapters);
  for (const WeightedAdapter& adapter : adapters) check_not_tied(checkpoint, factors->modules(), adapter.folder);
  RecentFactors recent(*factors);

  MergedCheckpoint merged;
  RewriteOptions options{
      .dtype = {}, .keep_format = keep_format, .max_file_bytes = max_file_bytes, .num_threads = num_threads};
  for (size_t i = 0; i < factors->modules().size(); ++i) {
    const LoraModule& module = factors->modules()[i];
    const bool is_experts = module.num_experts > 0;
    ++(is_experts              ? merged.expert_parameters
       : is_router(module)     ? merged.routers
       : module.is_embedding() ? merged.embeddings
                               : merged.linear_layers);
    const int image = !module.in_layer() ? kRootImage
                      : is_experts       ? experts_image(module.layer)
                                         : dense_image(module.layer);
    const ParamSpec& param = adapted_param(checkpoint.specs[image], module);
    // The embedding's weight is [V, O]; MXFP4 is stored as [E, O, I], but plain it is [E, I, O].
    const bool is_mxfp4 = param.quant && param.stored_as;
    const MergedProduct product{i, module.is_embedding() || param.transposed || (is_mxfp4 && !keep_format)};
    for (const SourceTensor& source : param.sources) {
      const int64_t first = source.first_element / param.shape.back();  // of the module's rows
      options.changes[source.name] = [&recent, product, scaling = module.scaling, first](int64_t first_row,
                                                                                         const at::Tensor& rows_NI) {
        add_product(*recent.of(product), scaling, first + first_row, rows_NI);
      };
    }
  }
  merged.written = rewrite_checkpoint(checkpoint, out, options);
  return merged;
}

}  // namespace moraine
