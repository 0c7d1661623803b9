// moraine score: the loss of a tokens file.
#include "infer/score.h"

#include <cmath>

#include "adapter/peft_export.h"
#include "base/error.h"
#include "base/json.h"
#include "base/output.h"
#include "base/path.h"
#include "checkpoint/tensor_file.h"
#include "cli/adapter_flags.h"
#include "cli/cli.h"
#include "cli/open.h"
#include "cli/run_on_ranks.h"

namespace moraine {
namespace {

// Before hours of computing: a result must have a folder to go to.
void check_output(const std::string& flag, const std::string& path) {
  if (path.empty()) return;
  const std::filesystem::path parent = std::filesystem::absolute(path).parent_path();
  if (!is_folder(parent)) {
    throw input_error(flag, "there is no folder " + parent.string(), "make it first");
  }
  std::error_code none;
  const std::filesystem::file_status status = std::filesystem::status(path, none);
  if (std::filesystem::is_directory(status)) throw input_error(flag, path + " is a folder", "name a file in it");
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    throw input_error(flag, path + " is no regular file", "name a file");
}

void check_score_flags(const CommandArgs& args) {
  const size_t adapters = weighted_adapters(args).size();
  if (!args.grads.empty() && adapters != 1) {
    throw input_error("--grads", adapters == 0 ? "needs an adapter" : "is for one adapter alone",
                      "gradients are those of --adapter DIR");
  }
  if (args.logits && args.out.empty()) throw input_error("--logits", "needs --out FILE", "logits are written there");
  check_output("--out", args.out);
  check_output("--grads", args.grads);
}

void write_result(const std::string& path, const ScoreResult& result) {
  std::vector<std::pair<std::string, at::Tensor>> tensors{
      {"loss", at::scalar_tensor(result.loss, at::TensorOptions().dtype(at::kFloat))},
      {"token_loss", result.token_loss}};
  if (result.logits.defined()) tensors.emplace_back("logits", result.logits);
  write_tensors(path, tensors);
}

}  // namespace

double score_loss(const CommandArgs& args) {
  double loss = 0;
  run_on_ranks(
      args, [](int64_t) {},
      [&](Control& control) {
        const Recipe recipe = read_overrides(args);
        OpenedInputs inputs = open_inputs(args, recipe, control);
        const TokensFile tokens = read_tokens_file(args.tokens, inputs.checkpoint.shape().vocab_size);
        OpenedModel opened = load_inputs(std::move(inputs), args, recipe, control);
        loss = score(opened.loaded, opened.adapter_state(), tokens, args.tokens, {}, opened.groups()).loss;
        return 0;
      });
  return loss;
}

int run_score(const CommandArgs& args) {
  const auto check = [&](int64_t ranks) {
    check_score_flags(args);
    const Recipe recipe = read_overrides(args);
    check_mesh(recipe, ranks);
    read_tokens_file(args.tokens, make_layout(HfConfig::read(args.model), recipe.model.dtype)->shape().vocab_size);
  };
  return run_on_ranks(args, check, [&](Control& control) {
    const bool is_writer = control.world().rank == 0;
    if (is_writer) check_score_flags(args);
    const Recipe recipe = read_overrides(args);
    OpenedInputs inputs = open_inputs(args, recipe, control);
    // The tokens are checked against the vocabulary before a weight is read.
    const TokensFile tokens = read_tokens_file(args.tokens, inputs.checkpoint.shape().vocab_size);
    OpenedModel opened = load_inputs(std::move(inputs), args, recipe, control);

    control.set_stage("score");
    const ScoreOptions options{.logits = args.logits, .grads = !args.grads.empty()};
    const ScoreResult result =
        score(opened.loaded, opened.adapter_state(), tokens, args.tokens, options, opened.groups());
    if (!std::isfinite(result.loss))
      throw run_error(args.tokens, "the loss is not finite", "the weights of the model or of the adapter are broken");
    // The first ep group holds every expert once, and rank 0 is its first rank.
    std::vector<std::pair<std::string, at::Tensor>> grads;
    if (options.grads && control.world().rank < opened.groups().mesh.ep)
      grads = peft_tensors(*opened.adapter, AdapterPart::kGrads, *opened.groups().ep);
    if (!is_writer) return 0;
    if (!args.out.empty()) write_result(args.out, result);
    if (options.grads) write_tensors(args.grads, grads);
    if (args.json) {
      print_json(OrderedJson{{"loss", result.loss}, {"tokens", result.trained_tokens}});
    } else {
      print_result(fmt::format("loss    {}\ntokens  {}\n", result.loss, result.trained_tokens));
    }
    return 0;
  });
}

}  // namespace moraine
