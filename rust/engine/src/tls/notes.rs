//! What rustls' callbacks learn about the connection whose handshake is running.
//!
//! All connections of a configuration share one verifier, and rustls does not tell it for which
//! connection it is asked. (A verifier for each connection would be no way out: rustls resumes a
//! session only under the verifier that judged it.) But the callbacks run synchronously, inside
//! the engine's call into rustls. So the engine lays its notes on the thread's desk, calls, and
//! takes them back with what was written down.

use std::any::Any;
use std::cell::RefCell;

/// Something that a validator hands through the engine to the engine's owner, who knows its type.
pub type Opaque = Box<dyn Any + Send + Sync>;

#[derive(Default)]
pub(crate) struct Notes {
    /// Server: the name that the client asked for (SNI).
    pub(crate) server_name: Option<String>,
    /// Server: the protocols that the client offered.
    pub(crate) offered_alpn: Vec<String>,
    /// The validator was asked in this handshake.
    pub(crate) validator_asked: bool,
    /// The validator has accepted provisionally; this is what will tell.
    pub(crate) decision: Option<Opaque>,
    /// Why the validator refused, if it was by accident.
    pub(crate) validator_error: Option<Opaque>,
}

thread_local! {
    static DESK: RefCell<Option<Notes>> = const { RefCell::new(None) };
}

/// Run `f` with `notes` on the desk.
///
/// A validator may drive another engine on this thread meanwhile, so what lay there before is put
/// back, also when `f` panics.
pub(crate) fn with_notes<R>(notes: &mut Notes, f: impl FnOnce() -> R) -> R {
    struct Lent<'a> {
        notes: &'a mut Notes,
        before: Option<Notes>,
    }
    impl Drop for Lent<'_> {
        fn drop(&mut self) {
            if let Some(written) = DESK.replace(self.before.take()) {
                *self.notes = written;
            }
        }
    }
    let before = DESK.replace(Some(std::mem::take(notes)));
    let _lent = Lent { notes, before };
    f()
}

/// Read or write the notes of the connection whose handshake is running.
pub(crate) fn edit<R>(f: impl FnOnce(&mut Notes) -> R) -> Option<R> {
    DESK.with_borrow_mut(|desk| desk.as_mut().map(f))
}
