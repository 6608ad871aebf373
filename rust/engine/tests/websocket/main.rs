//! WebSocket's frames against literals, against themselves, and against hostile bytes.
#![allow(clippy::unwrap_used)]

mod compression;
mod hostile;
mod literals;
mod pair;
mod properties;
mod rooms;
