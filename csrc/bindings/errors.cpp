// Each exception of base/errors.hpp becomes one of pgtbl/errors.py, so that both compiled modules raise
// the same classes.
#include "base/errors.hpp"

#include <pybind11/gil_safe_call_once.h>

#include "bindings/bind.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

struct exceptions {
  py::object root, segmentation_fault, bus_error, out_of_memory, closed_error, usage_error, invariant_error,
      deadlock_error, unsupported;
};
PYBIND11_CONSTINIT py::gil_safe_call_once_and_store<exceptions> storage;

void set(const py::object& type, const std::exception& e) { py::set_error(type, e.what()); }

void set_os_error(const os_error& e) {
  const py::tuple args = py::make_tuple(e.code, e.what());
  py::set_error(py::reinterpret_borrow<py::object>(PyExc_OSError), args);
}

void translate(std::exception_ptr p) {
  if (!p) return;
  const exceptions& x = storage.get_stored();
  try {
    std::rethrow_exception(p);
  } catch (const segmentation_fault& e) {
    set(x.segmentation_fault, e);
  } catch (const bus_error& e) {
    set(x.bus_error, e);
  } catch (const out_of_memory& e) {
    set(x.out_of_memory, e);
  } catch (const closed_error& e) {
    set(x.closed_error, e);
  } catch (const usage_error& e) {
    set(x.usage_error, e);
  } catch (const invariant_error& e) {
    set(x.invariant_error, e);
  } catch (const deadlock_error& e) {
    set(x.deadlock_error, e);
  } catch (const unsupported& e) {
    set(x.unsupported, e);
  } catch (const error& e) {
    set(x.root, e);
  } catch (const value_error& e) {
    py::set_error(PyExc_ValueError, e.what());
  } catch (const os_error& e) {
    set_os_error(e);
  }
}

}  // namespace

void bind_errors(py::module_&) {
  storage.call_once_and_store_result([] {
    const auto errors = py::module_::import("pgtbl.errors");
    return exceptions{
        errors.attr("PgtblError"),     errors.attr("SegmentationFault"), errors.attr("BusError"),
        errors.attr("OutOfMemory"),    errors.attr("ClosedError"),       errors.attr("UsageError"),
        errors.attr("InvariantError"), errors.attr("DeadlockError"),     errors.attr("Unsupported")};
  });
  py::register_local_exception_translator(translate);
}

}  // namespace pgtbl::inline PGTBL_WORLD
