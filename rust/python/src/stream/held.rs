//! What changes in an object of Python's.

use std::cell::{RefCell, RefMut};

use pyo3::{Py, Python};

/// A field that the interpreter's lock guards: whoever reaches for it shows that the lock is held.
///
/// A borrow ends before anything of Python's is called, which may come back here. Where that is forgotten, `borrow` panics.
pub(crate) struct Held<T>(RefCell<T>);

// SAFETY: every access takes a `Python<'_>`, which only the thread that holds the interpreter's lock has, and a
// `RefMut` that is kept while the lock is released makes the next `borrow` panic, in whatever thread. The module
// declares that it needs the lock (`gil_used`).
#[expect(unsafe_code)]
unsafe impl<T: Send> Sync for Held<T> {}

impl<T> Held<T> {
    pub(crate) fn new(value: T) -> Self {
        Held(RefCell::new(value))
    }

    pub(crate) fn borrow<'a>(&'a self, _py: Python<'a>) -> RefMut<'a, T> {
        self.0.borrow_mut()
    }

    /// For the garbage collector, which runs while the lock is held, and for dropping.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.try_borrow().ok().map(|value| look(&value))
    }
}

/// Another reference to what is there.
pub(crate) fn copy<T>(py: Python<'_>, reference: &Option<Py<T>>) -> Option<Py<T>> {
    reference.as_ref().map(|reference| reference.clone_ref(py))
}
