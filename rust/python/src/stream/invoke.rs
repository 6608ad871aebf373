//! Calling methods of Python's with few arguments, without a tuple for them.

use std::ptr::null_mut;

use pyo3::ffi::{self, PySendResult};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

/// `object.name(argument)`.
#[expect(unsafe_code)]
pub(crate) fn invoke<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the pointers are of objects that are alive and borrowed for the call, a null ends them as the function
    // demands, and its result is a new reference, or null with the error set.
    unsafe {
        let result = ffi::PyObject_CallMethodObjArgs(
            object.as_ptr(),
            name.as_ptr(),
            argument.as_ptr(),
            null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(object.py(), result)
    }
}

/// `object.name(first, second)`.
#[expect(unsafe_code)]
pub(crate) fn invoke_two<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as above.
    unsafe {
        let result = ffi::PyObject_CallMethodObjArgs(
            object.as_ptr(),
            name.as_ptr(),
            first.as_ptr(),
            second.as_ptr(),
            null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(object.py(), result)
    }
}

/// What driving a coroutine on came to.
pub(crate) enum Sent<'py> {
    Yielded(Bound<'py, PyAny>),
    Returned(Bound<'py, PyAny>),
}

/// `coroutine.send(value)`, whose result does not travel in a `StopIteration`.
#[expect(unsafe_code)]
pub(crate) fn advance<'py>(
    coroutine: &Bound<'py, PyAny>,
    value: &Bound<'py, PyAny>,
) -> PyResult<Sent<'py>> {
    let py = coroutine.py();
    let mut result = null_mut::<ffi::PyObject>();
    // SAFETY: both are alive and borrowed for the call, and its result is a new reference, or null with the error set.
    unsafe {
        let sent = ffi::PyIter_Send(coroutine.as_ptr(), value.as_ptr(), &raw mut result);
        let result = Bound::from_owned_ptr_or_err(py, result)?;
        Ok(match sent {
            PySendResult::PYGEN_RETURN => Sent::Returned(result),
            _ => Sent::Yielded(result),
        })
    }
}

/// A new instance of a class derived from `tuple` that has no `__new__` of its own, with two fields.
#[expect(unsafe_code)]
pub(crate) fn pair<'py>(
    class: &Bound<'py, PyType>,
    first: Bound<'py, PyAny>,
    second: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: a tuple's memory is that of its class with one place for each field, and the references that fill the
    // places of a new one are given away to it.
    unsafe {
        let tuple = Bound::from_owned_ptr_or_err(
            class.py(),
            ffi::PyType_GenericAlloc(class.as_type_ptr(), 2),
        )?;
        for (place, field) in [first, second].into_iter().enumerate() {
            if ffi::PyTuple_SetItem(tuple.as_ptr(), place as ffi::Py_ssize_t, field.into_ptr()) != 0
            {
                return Err(PyErr::fetch(class.py()));
            }
        }
        Ok(tuple)
    }
}
