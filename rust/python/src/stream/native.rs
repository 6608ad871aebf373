//! Objects for Python's interpreter where PyO3's classes cost too much: an event loop makes some for each message, asks each
//! half a dozen things and drops it. This is the only place that lays objects out by hand.

#![expect(unsafe_code)]

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, offset_of};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, null, null_mut};

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::ffi::{self, PySendResult};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// What goes to whoever drives an awaitable.
pub(crate) enum Answer<'py> {
    Yield(Bound<'py, PyAny>),
    Return(Bound<'py, PyAny>),
}

/// Shows the garbage collector one reference.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(*mut ffi::PyObject) -> c_int;

/// What an awaitable object holds, and does.
pub(crate) trait Native: Sized + Send + Sync + 'static {
    const NAME: &'static CStr;
    const DOC: &'static CStr;
    /// Whether a task is to take it for a future, which has `_asyncio_future_blocking` and `_loop`.
    const FUTURE: bool;

    fn class() -> &'static PyOnceLock<Py<PyType>>;
    fn methods() -> Vec<ffi::PyMethodDef>;
    fn name(&self) -> &'static CStr;
    /// Go on, as `send` of a coroutine does.
    fn step<'py>(
        slf: &Bound<'py, PyAny>,
        this: &Self,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Answer<'py>>;
    /// Show what is referenced; not 0 ends it.
    fn visit(&self, visit: Visit<'_>) -> c_int;
    /// Let go of what may refer back.
    fn clear(&self, py: Python<'_>);
}

#[repr(C)]
struct Object<T> {
    head: ffi::PyObject,
    blocking: c_char,
    event_loop: *mut ffi::PyObject,
    /// What a task's representation shows of a coroutine.
    name: *const c_char,
    value: ManuallyDrop<T>,
}

/// A reference to an object of ours.
pub(crate) struct Handle<T: Native> {
    object: Py<PyAny>,
    kind: PhantomData<T>,
}

impl<T: Native> Handle<T> {
    /// A new object; `event_loop` is what a future shows.
    pub(crate) fn new(py: Python<'_>, value: T, event_loop: Option<&Py<PyAny>>) -> PyResult<Self> {
        let class = class::<T>(py)?;
        // SAFETY: the type is ours, so the object has room for all of `Object<T>`. It is zeroed, and the garbage collector
        // knows it already, but cannot run before it is filled: nothing of Python's is called in between.
        let object = unsafe {
            let object = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
            if object.is_null() {
                return Err(PyErr::fetch(py));
            }
            let place = object.cast::<Object<T>>();
            ptr::addr_of_mut!((*place).blocking).write(1); // the task takes it back when it has seen that it has to wait
            let event_loop =
                event_loop.map_or(null_mut(), |event_loop| event_loop.clone_ref(py).into_ptr());
            ptr::addr_of_mut!((*place).event_loop).write(event_loop);
            ptr::addr_of_mut!((*place).name).write(value.name().as_ptr());
            ptr::addr_of_mut!((*place).value).write(ManuallyDrop::new(value));
            Bound::from_owned_ptr(py, object).unbind()
        };
        Ok(Handle {
            object,
            kind: PhantomData,
        })
    }

    pub(crate) fn get(&self, _py: Python<'_>) -> &T {
        // SAFETY: a handle is made in `new` and `of`, where the object's type is known.
        unsafe { &(*self.object.as_ptr().cast::<Object<T>>()).value }
    }

    pub(crate) fn bind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Handle {
            object: self.object.clone_ref(py),
            kind: PhantomData,
        }
    }

    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.object.as_ptr()
    }
}

/// The type, made when it is first asked for.
pub(crate) fn class<T: Native>(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    let class = T::class().get_or_try_init(py, || make::<T>(py))?;
    Ok(class.bind(py))
}

fn make<T: Native>(py: Python<'_>) -> PyResult<Py<PyType>> {
    let mut methods = T::methods();
    methods.push(ffi::PyMethodDef::zeroed());
    let mut members = Vec::new();
    if T::FUTURE {
        members.push(member(
            c"_asyncio_future_blocking",
            ffi::Py_T_BOOL,
            offset_of!(Object<T>, blocking),
            0,
        ));
        let event_loop = offset_of!(Object<T>, event_loop);
        members.push(member(
            c"_loop",
            ffi::Py_T_OBJECT_EX,
            event_loop,
            ffi::Py_READONLY,
        ));
    }
    for name in [c"__name__", c"__qualname__"] {
        members.push(member(
            name,
            ffi::Py_T_STRING,
            offset_of!(Object<T>, name),
            ffi::Py_READONLY,
        ));
    }
    members.push(ffi::PyMemberDef::default());
    let slot = |slot: c_int, function: *mut c_void| ffi::PyType_Slot {
        slot,
        pfunc: function,
    };
    let mut slots = [
        slot(ffi::Py_tp_dealloc, dealloc::<T> as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse::<T> as *mut c_void),
        slot(ffi::Py_tp_clear, clear::<T> as *mut c_void),
        slot(ffi::Py_tp_doc, T::DOC.as_ptr().cast_mut().cast()),
        slot(ffi::Py_am_await, itself as *mut c_void),
        slot(ffi::Py_am_send, send::<T> as *mut c_void),
        slot(ffi::Py_tp_iter, itself as *mut c_void),
        slot(ffi::Py_tp_iternext, next::<T> as *mut c_void),
        // Both tables are the type's for ever.
        slot(
            ffi::Py_tp_methods,
            Box::leak(methods.into_boxed_slice()).as_mut_ptr().cast(),
        ),
        slot(
            ffi::Py_tp_members,
            Box::leak(members.into_boxed_slice()).as_mut_ptr().cast(),
        ),
        ffi::PyType_Slot::default(),
    ];
    let flags = ffi::Py_TPFLAGS_DEFAULT
        | ffi::Py_TPFLAGS_HAVE_GC
        | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
        | ffi::Py_TPFLAGS_IMMUTABLETYPE;
    let mut spec = ffi::PyType_Spec {
        name: T::NAME.as_ptr(),
        basicsize: size_of::<Object<T>>() as c_int, // a few hundred bytes
        itemsize: 0,
        flags: flags as c_uint,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the specification is whole, its functions have the types of their slots, and what it points to and the type
    // keeps lives for ever.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&mut spec))? };
    Ok(class.cast_into::<PyType>()?.unbind())
}

fn member(name: &'static CStr, kind: c_int, offset: usize, flags: c_int) -> ffi::PyMemberDef {
    ffi::PyMemberDef {
        name: name.as_ptr(),
        type_code: kind,
        offset: offset as ffi::Py_ssize_t, // within an object of a few hundred bytes
        flags,
        doc: null(),
    }
}

/// Run what the interpreter asked for, with its lock held, which is the caller's to know: PyO3 counts that, or it would put off
/// what is dropped. The interpreter does not know Rust's panics: they become exceptions.
fn guarded<R: Copy>(failed: R, work: impl FnOnce(Python<'_>) -> PyResult<R>) -> R {
    let run = || {
        Python::attach(|py| {
            work(py).unwrap_or_else(|error| {
                error.restore(py);
                failed
            })
        })
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        Python::attach(|py| panicked(&panic).restore(py));
        failed
    })
}

fn panicked(panic: &(dyn Any + Send)) -> PyErr {
    let what = panic.downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| panic.downcast_ref::<&str>().copied());
    PyRuntimeError::new_err(format!(
        "a fault of tieline's: {}",
        what.unwrap_or("a panic")
    ))
}

unsafe extern "C" fn dealloc<T: Native>(object: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this once, for the last reference, with its lock held. The value was written in `new`.
    unsafe {
        let class = ffi::Py_TYPE(object);
        ffi::PyObject_GC_UnTrack(object.cast());
        let place = object.cast::<Object<T>>();
        // Without the interpreter, at its very end, nothing can be dropped any more.
        let gone = || Python::try_attach(|_| ManuallyDrop::drop(&mut (*place).value));
        let _ = catch_unwind(AssertUnwindSafe(gone));
        ffi::Py_XDECREF((*place).event_loop);
        ffi::PyObject_GC_Del(object.cast());
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn traverse<T: Native>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as above, and the collector only reads.
    unsafe {
        let place = object.cast::<Object<T>>();
        let mut show = |reference: *mut ffi::PyObject| match reference.is_null() {
            true => 0,
            false => visit(reference, argument),
        };
        for reference in [ffi::Py_TYPE(object).cast(), (*place).event_loop] {
            let result = show(reference);
            if result != 0 {
                return result;
            }
        }
        (*place).value.visit(&mut show)
    }
}

unsafe extern "C" fn clear<T: Native>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: as above; the collector calls this with the lock held.
    unsafe {
        let place = object.cast::<Object<T>>();
        guarded(0, |py| {
            (*place).value.clear(py);
            Ok(0)
        })
    }
}

unsafe extern "C" fn itself(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter's own object.
    unsafe { ffi::Py_NewRef(object) }
}

unsafe extern "C" fn send<T: Native>(
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> PySendResult {
    // SAFETY: the interpreter calls this with its lock held, and with references that live as long as the call.
    unsafe {
        *result = null_mut();
        guarded(PySendResult::PYGEN_ERROR, |py| {
            let (slf, value) = (
                Bound::from_borrowed_ptr(py, object),
                Bound::from_borrowed_ptr(py, value),
            );
            let this = &(*object.cast::<Object<T>>()).value;
            let (kind, answer) = match T::step(&slf, this, &value)? {
                Answer::Yield(future) => (PySendResult::PYGEN_NEXT, future),
                Answer::Return(value) => (PySendResult::PYGEN_RETURN, value),
            };
            *result = answer.into_ptr();
            Ok(kind)
        })
    }
}

unsafe extern "C" fn next<T: Native>(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe {
        method::<T>(object, |slf, this| {
            plain(T::step(slf, this, &slf.py().None().into_bound(slf.py()))?)
        })
    }
}

/// An answer as a method gives it.
pub(crate) fn plain<'py>(answer: Answer<'py>) -> PyResult<Bound<'py, PyAny>> {
    match answer {
        Answer::Yield(future) => Ok(future),
        Answer::Return(value) => Err(PyStopIteration::new_err((value.unbind(),))),
    }
}

/// Run a method.
///
/// # Safety
/// `object` is one of `T`'s, and the interpreter's lock is held.
unsafe fn method<T: Native>(
    object: *mut ffi::PyObject,
    work: impl for<'py> FnOnce(&Bound<'py, PyAny>, &T) -> PyResult<Bound<'py, PyAny>>,
) -> *mut ffi::PyObject {
    // SAFETY: as the caller says.
    unsafe {
        guarded(null_mut(), |py| {
            let slf = Bound::from_borrowed_ptr(py, object);
            let this = &(*object.cast::<Object<T>>()).value;
            Ok(work(&slf, this)?.into_ptr())
        })
    }
}

/// One of the methods that Python sees.
pub(crate) trait Method<T: Native> {
    const NAME: &'static CStr;

    /// With its arguments, those that were given a name last.
    fn run<'py>(
        slf: &Bound<'py, PyAny>,
        this: &T,
        arguments: &[Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>>;

    fn definition() -> ffi::PyMethodDef {
        ffi::PyMethodDef {
            ml_name: Self::NAME.as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: run::<T, Self>,
            },
            ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ml_doc: null(),
        }
    }
}

unsafe extern "C" fn run<T: Native, M: Method<T> + ?Sized>(
    object: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter says how many arguments there are, and they live as long as the call. A `Bound` is such a
    // pointer and nothing else, and behind a shared reference it is not dropped.
    unsafe {
        method::<T>(object, |slf, this| {
            let named = if names.is_null() {
                0
            } else {
                ffi::PyTuple_Size(names)
            };
            let count = usize::try_from(count + named).unwrap_or_default();
            let arguments = match count {
                0 => &[],
                _ => std::slice::from_raw_parts(arguments.cast::<Bound<'_, PyAny>>(), count),
            };
            M::run(slf, this, arguments)
        })
    }
}
