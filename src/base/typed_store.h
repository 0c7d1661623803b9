// Objects by type and key, for what one part of a program keeps where another one holds it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <typeindex>
#include <utility>

namespace moraine {

class TypedStore {
 public:
  // The T of `key`, which make() returns when it is first asked for. Valid as long as the store or a copy of it, which
  // shares its objects.
  template <typename T, typename Make>
  T& once(const std::string& key, const Make& make) {
    std::shared_ptr<void>& object = objects_[{std::type_index(typeid(T)), key}];
    if (!object) object = std::make_shared<T>(make());
    return *static_cast<T*>(object.get());
  }
  // The T of this store, empty at first.
  template <typename T>
  T& of() {
    return once<T>("", [] { return T(); });
  }
  // Null where there is none yet.
  template <typename T>
  const T* find(const std::string& key = "") const {
    const auto found = objects_.find({std::type_index(typeid(T)), key});
    return found == objects_.end() ? nullptr : static_cast<const T*>(found->second.get());
  }

 private:
  std::map<std::pair<std::type_index, std::string>, std::shared_ptr<void>> objects_;
};

}  // namespace moraine
