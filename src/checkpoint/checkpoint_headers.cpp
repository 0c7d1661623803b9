#include "checkpoint/checkpoint_headers.h"

#include "checkpoint/fingerprint.h"

namespace moraine {
namespace {

OrderedJson to_json(const CheckpointIndex& index) {
  OrderedJson files = OrderedJson::array();
  for (const SafetensorsHeader& file : index.files) {
    OrderedJson entries = OrderedJson::array();
    for (const SafetensorsEntry& e : file.entries)
      entries.push_back({e.name, std::string(dtype_name(e.dtype)), e.shape, e.offset, e.nbytes});
    files.push_back(
        {{"path", file.path.string()}, {"size", file.file_size}, {"data", file.data_offset}, {"entries", entries}});
  }
  OrderedJson tensors = OrderedJson::array();  // an index may leave out tensors that a file holds
  for (const auto& [name, tensor] : index.tensors) tensors.push_back({name, tensor.file});
  return {{"folder", index.folder.string()}, {"files", files}, {"tensors", tensors}};
}

CheckpointIndex index_from_json(const OrderedJson& json) {
  CheckpointIndex index;
  index.folder = json["folder"].get<std::string>();
  for (const OrderedJson& file : json["files"]) {
    SafetensorsHeader& header = index.files.emplace_back();
    header.path = file["path"].get<std::string>();
    header.file_size = file["size"];
    header.data_offset = file["data"];
    for (const OrderedJson& e : file["entries"]) {
      header.entries.push_back({e[0], *parse_dtype(e[1].get<std::string>()), e[2].get<std::vector<int64_t>>(),
                                e[3].get<uint64_t>(), e[4].get<uint64_t>()});
    }
  }
  for (const OrderedJson& tensor : json["tensors"]) {
    const int file = tensor[1];
    const std::string name = tensor[0];
    index.tensors[name] = {file, *index.files[file].find(name)};
  }
  return index;
}

}  // namespace

std::string headers_to_text(const CheckpointHeaders& headers) {
  return OrderedJson{
      {"config", headers.config.json()}, {"where", headers.config.where()}, {"index", to_json(headers.index)}}
      .dump();
}

CheckpointHeaders headers_from_text(const std::string& text) {
  const OrderedJson json = OrderedJson::parse(text);
  return {HfConfig(Json::parse(json["config"].dump()), json["where"]), index_from_json(json["index"])};
}

std::string fingerprint(const CheckpointHeaders& headers) {
  // File names without their folder, which may differ from host to host.
  OrderedJson index = to_json(headers.index);
  for (OrderedJson& file : index["files"])
    file["path"] = std::filesystem::path(file["path"].get<std::string>()).filename().string();
  return hash_text(headers.config.json().dump() + index["files"].dump());
}

}  // namespace moraine
