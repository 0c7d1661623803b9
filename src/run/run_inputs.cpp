#include "run/run_inputs.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "base/log.h"
#include "base/version.h"
#include "checkpoint/fingerprint.h"
#include "distributed/collectives/device.h"
#include "distributed/collectives/device_hook.h"
#include "distributed/collectives/from_rank0.h"
#include "distributed/control/agreement.h"
#include "distributed/control/timeout.h"
#include "text/chat/chat_template.h"
#include "text/rows/data_files.h"
#include "text/rows/dataset_bytes.h"
#include "text/rows/packing.h"
#include "text/tokenizer/input_notes.h"

namespace moraine {
namespace {

Dataset load_files(const Recipe& recipe, const std::vector<std::string>& names, int64_t vocab_size) {
  const std::vector<std::string> files = find_data_files(names);
  bool any_text = false, any_chat = false;
  for (const std::string& file : files) {
    const DataFormat format = data_format_of(file, recipe.data);
    any_text |= format != DataFormat::kTokens;
    any_chat |= needs_chat_template(format);
  }
  const std::filesystem::path model = recipe.model.path;
  std::optional<Tokenizer> tokenizer;
  if (any_text) tokenizer = Tokenizer::from_folder(model);
  std::unique_ptr<ChatTemplate> chat;
  if (any_chat) {
    chat =
        make_chat_template(recipe.data.chat_template, recipe.data.template_options, model, recipe.data.template_name);
  }
  return load_dataset(files, recipe.data, tokenizer ? &*tokenizer : nullptr, chat.get(), vocab_size);
}

bool only_rank0_sees_files(const Recipe& recipe, const MeshGroups& groups) {
  return recipe.load.mode == LoadMode::kRank0 && groups.control != nullptr;
}

at::Device device_of(const Recipe& recipe, const WorldInfo& world) {
  if (hooked_device() && recipe.dist.device == DeviceChoice::kCuda) return *hooked_device();
  const bool may_share = recipe.dist.backend == BackendChoice::kGloo;
  return choose_device(recipe.dist.device, visible_cuda_devices(), world, may_share);
}

}  // namespace

RunGroups make_run_groups(const Recipe& recipe, Control& control) {
  require_no_choices(recipe);
  const WorldInfo& world = control.world();
  const Mesh mesh = Mesh::make(world.world_size, {recipe.mesh.ep, recipe.mesh.fsdp, recipe.mesh.replicate});
  const auto timeout = timeout_from_seconds(recipe.dist.timeout_seconds);
  control.set_timeout(timeout);
  const at::Device device = device_of(recipe, world);
  if (world.distributed()) check_agreement(control, "device", {{"kind of device", device.is_cuda() ? "cuda" : "cpu"}});
  const std::string warning = use_device(device, recipe.train.deterministic);
  if (world.rank == 0 && !warning.empty()) log_warning(warning);
  const BackendKind backend = choose_backend(recipe.dist.backend, device);
  RunGroups run{std::make_unique<BackendFactory>(world, backend, timeout, device), {}, device};
  run.groups = world.distributed() ? make_mesh_groups(control, *run.backends, mesh) : single_rank_groups();
  return run;
}

LoadSettings load_settings(const Recipe& recipe, const WorldInfo& world, at::Device device) {
  LoadSettings settings;
  settings.device = device;
  settings.mode = recipe.load.mode;
  settings.transport = recipe.load.node_transport;
  settings.verify = recipe.load.verify;
  settings.resident_bytes = recipe.mesh.resident.bytes;
  settings.offload = recipe.mesh.offload;
  settings.num_threads = static_cast<int>(default_thread_count(world.local_world_size));
  return settings;
}

OpenedCheckpoint open_run_checkpoint(const Recipe& recipe, MeshGroups& groups) {
  const DtypeChoice dtype = recipe.model.dtype;
  return only_rank0_sees_files(recipe, groups)
             ? checkpoint_from_rank0(recipe.model.path, dtype, recipe.model.base_format, groups)
             : open_checkpoint(recipe.model.path, dtype, recipe.model.base_format);
}

void check_router_loss(const Recipe& recipe, const ModelShape& shape) {
  if (recipe.train.aux_loss_coef == 0 || shape.has_router_loss) return;
  throw input_error("train.aux_loss_coef", "transformers' class of this model has no auxiliary loss on the routing",
                    "leave it out: its routers are balanced by their correction bias");
}

DataRows read_rows(const Recipe& recipe, const std::string& key, const std::vector<std::string>& files,
                   int64_t vocab_size, MeshGroups& groups) {
  DataRows rows;
  if (groups.world->rank() != 0) silence_input_notes();
  const auto load = [&] { return load_files(recipe, files, vocab_size); };
  rows.data = only_rank0_sees_files(recipe, groups)
                  ? dataset_from_bytes(from_rank0(groups, "rows of " + key, [&] { return dataset_to_bytes(load()); }))
                  : load();
  rows.rows = recipe.data.packing ? pack_samples(rows.data.samples, recipe.data.max_length)
                                  : one_sample_a_row(rows.data.samples);
  return rows;
}

int64_t DataRows::num_tokens() const {
  int64_t tokens = 0;
  for (const Sample& sample : data.samples) tokens += static_cast<int64_t>(sample.input_ids.size());
  return tokens;
}

int64_t DataRows::longest_sample() const {
  int64_t longest = 0;
  for (const Sample& sample : data.samples) longest = std::max(longest, static_cast<int64_t>(sample.input_ids.size()));
  return longest;
}

std::vector<TrainingRow> DataRows::at(const std::vector<int64_t>& numbers) const {
  std::vector<TrainingRow> wanted;
  for (int64_t number : numbers) {
    TrainingRow& row = wanted.emplace_back();
    for (int64_t sample : rows[number]) row.push_back(&data.samples[sample]);
  }
  return wanted;
}

std::vector<TrainingRow> DataRows::all() const {
  std::vector<int64_t> numbers(rows.size());
  std::iota(numbers.begin(), numbers.end(), 0);
  return at(numbers);
}

std::string hash_rows(const DataRows& rows) {
  std::string hash;
  const auto add = [&](const std::vector<int64_t>& numbers) {
    hash.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(int64_t));
  };
  for (const Sample& sample : rows.data.samples) {
    for (const std::vector<int64_t>* column : {&sample.input_ids, &sample.labels, &sample.position_ids}) add(*column);
    hash = hash_text(hash);
  }
  for (const std::vector<int64_t>& row : rows.rows) {
    add(row);
    hash = hash_text(hash);
  }
  return hash;
}

void check_same_on_all_ranks(Control& control, const Recipe& recipe, const OpenedCheckpoint& checkpoint,
                             const std::vector<std::pair<std::string, const DataRows*>>& rows) {
  if (!control.world().distributed()) return;
  std::vector<std::pair<std::string, std::string>> values{{"program version", kProgramVersion}};
  for (auto& [key, value] : recipe_entries(recipe)) values.emplace_back("recipe key " + key, value);
  values.emplace_back("checkpoint headers", fingerprint(checkpoint.headers));
  for (const auto& [key, data] : rows) values.emplace_back("rows of " + key, hash_rows(*data));
  check_agreement(control, "start", values);
}

}  // namespace moraine
