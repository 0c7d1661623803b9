#include "report/run_description.h"

#include <ATen/Parallel.h>

#include <map>
#include <set>

#include "base/version.h"
#include "models/param_specs.h"
#include "plan/memory_plan.h"

namespace moraine {
namespace {

OrderedJson model_facts(const DescribedRun& run) {
  const OpenedCheckpoint& checkpoint = run.checkpoint;
  uint64_t parameters = 0;
  for (const ImageSpec& image : checkpoint.specs)
    for (const ParamSpec& param : image.params) parameters += count_parameters(param);
  std::map<std::string, uint64_t> stored;
  for (const auto& [name, tensor] : checkpoint.headers.index.tensors)
    stored[std::string(dtype_name(tensor.entry.dtype))] += tensor.entry.nbytes;
  const ModelShape& shape = checkpoint.shape();
  return {{"path", run.recipe.model.path},
          {"architecture", checkpoint.headers.config.architecture()},
          {"layers", shape.num_hidden_layers},
          {"experts", shape.num_experts},
          {"experts_per_token", shape.num_experts_per_tok},
          {"parameters", parameters},
          {"stored_dtypes", stored},
          {"compute_dtype", dtype_name(shape.dtype)}};
}

OrderedJson adapter_facts(const OpenedAdapter& adapter) {
  OrderedJson targets = OrderedJson::array();
  for (const auto& target : adapter.patterns)
    targets.push_back({{"pattern", target.pattern},
                       {"matched", target.matched},
                       {"r", target.r},
                       {"lora_alpha", target.lora_alpha},
                       {"scaling", target.scaling},
                       {"parameters", target.parameters}});
  return {{"r", adapter.config.r},
          {"lora_alpha", adapter.config.lora_alpha},
          {"parameters", adapter.state.num_parameters()},
          {"targets", targets}};
}

OrderedJson data_facts(const DataRows& training, const DataRows& held_out) {
  OrderedJson facts{{"sequences", training.data.samples.size()},
                    {"rows", training.size()},
                    {"tokens", training.num_tokens()},
                    {"longest", training.longest_sample()}};
  if (held_out.size() > 0) facts["eval_sequences"] = held_out.data.samples.size();
  return facts;
}

OrderedJson mesh_facts(const DescribedRun& run) {
  std::set<std::string> hosts;
  for (const OrderedJson& rank : run.load_reports) hosts.insert(rank["host"].get<std::string>());
  const Mesh& mesh = run.mesh;
  return {{"ranks", mesh.world_size()},  {"ep", mesh.ep},     {"ep_fsdp", mesh.ep_fsdp},
          {"replicate", mesh.replicate}, {"fsdp", mesh.fsdp}, {"hosts", hosts.size()}};
}

}  // namespace

OrderedJson describe_run(const DescribedRun& run) {
  OrderedJson facts{{"moraine", kProgramVersion},
                    {"model", model_facts(run)},
                    {"adapter", adapter_facts(run.adapter)},
                    {"data", data_facts(run.training, run.held_out)},
                    {"mesh", mesh_facts(run)},
                    {"device", run.loaded.device.str()},
                    {"threads_per_rank", at::get_num_threads()},
                    {"steps", run.steps},
                    {"batch_size", run.batch_size}};
  if (!run.loaded.device.is_cpu()) return facts;  // plans are of a process's memory, which a device's is not
  std::vector<LoraModule> targets;
  for (const AdapterEntry& entry : run.adapter.state.entries()) targets.push_back(entry.module);
  const PlannedModel model(run.checkpoint, std::move(targets), run.adapter.state.dropout());
  facts["planned_peak_bytes"] =
      largest_peak(model, planned_run(run.recipe, model, run.world.world_size, run.world.local_world_size));
  return facts;
}

}  // namespace moraine
