// What lives and ends in the model world: an allocation and a free are operations too.
#pragma once
#include <cstddef>
#include <memory>
#include <utility>

#include "world/model/atomic.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace model_detail {
inline void object_step(op_kind kind, const void* p, const char* type, where at) {
  operation op{.kind = kind};
  op.object = p;
  op.text = type;
  op.at = at;
  engine::current().perform(op);
}
}  // namespace model_detail

/// Nothing here: which address an object gets is the engine's business.
template <class T>
class pooled {};

template <class T, class... A>
T* make(A&&... a) {
  void* p = engine::current().begin_object(sizeof(T), alignof(T), model_detail::type_name<T>());
  model_detail::object_step(op_kind::alloc, p, model_detail::type_name<T>(), where{});
  T* t = std::construct_at(static_cast<T*>(p), std::forward<A>(a)...);
  engine::current().end_object();
  return t;
}
template <class T>
void destroy(T* p, where at = where::current()) {
  if (p == nullptr) return;
  std::destroy_at(p);
  model_detail::object_step(op_kind::free, p, model_detail::type_name<T>(), at);
}
template <class T>
T* make_array(std::size_t n) {
  void* p = engine::current().begin_object(n * sizeof(T) + 1, alignof(T), model_detail::type_name<T>());
  model_detail::object_step(op_kind::alloc, p, model_detail::type_name<T>(), where{});
  T* t = static_cast<T*>(p);
  std::uninitialized_value_construct_n(t, n);
  engine::current().end_object();
  return t;
}
template <class T>
void destroy_array(T* p, std::size_t n, where at = where::current()) {
  if (p == nullptr) return;
  std::destroy_n(p, n);
  model_detail::object_step(op_kind::free, p, model_detail::type_name<T>(), at);
}

}  // namespace pgtbl::inline PGTBL_WORLD
